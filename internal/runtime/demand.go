package runtime

import (
	"math"
	"time"
)

const (
	// demandMemory is how fast old demand is forgotten: what is asked for once weighs 1/e after that time.
	demandMemory = time.Minute
	// firstCreateTime stands for the time that it takes to make a sandbox before one was made.
	firstCreateTime = time.Second
)

// demand is how many sandboxes of one kind are asked for. It is not for concurrent use.
type demand struct {
	weight float64 // of what was asked for, as of at
	at     time.Time
	// create is how long it takes to make one: a moving average.
	create time.Duration
}

// asked counts one.
func (d *demand) asked(now time.Time) {
	d.weight = d.now(now) + 1
	d.at = now
}

// now is the weight of what was asked for, the recent more than the old: about the number in the last demandMemory.
func (d *demand) now(now time.Time) float64 {
	if d.at.IsZero() {
		return 0
	}
	return d.weight * math.Exp(-float64(now.Sub(d.at))/float64(demandMemory))
}

// took notes how long it took to make one.
func (d *demand) took(t time.Duration) {
	if d.create == 0 {
		d.create = t
	}
	d.create += (t - d.create) / 4
}

// spares is how many ready ones are worth having: as many as are asked for in the time that it takes to make one,
// and twice that number's standard deviation, since they come as they like; at least one, for as long as more
// than one was asked for of late.
func (d *demand) spares(now time.Time) int {
	weight := d.now(now)
	if weight <= 1 {
		return 0
	}
	create := d.create
	set(&create, firstCreateTime)
	mean := weight / demandMemory.Seconds() * create.Seconds()
	return max(1, int(math.Ceil(mean+2*math.Sqrt(mean))))
}
