package bench

import (
	"context"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// child is one of several sandboxes that were made from one snapshot.
type child struct {
	sb    sandbox.Sandbox
	err   error         // of the restore and the first exec
	clock time.Duration // off the host's
	// kernel holds random numbers from its kernel; prng those of a program's own generator that
	// was running when the snapshot was taken.
	kernel, prng []string
	drawErr      error
}

// draw makes a child draw random numbers: in a new process, and if there is one in the program
// that was running when the snapshot was taken.
func (c *child) draw(ctx context.Context, running bool) {
	if c.err != nil {
		return
	}
	if running {
		var a answer
		if a, c.drawErr = (&workload{sb: c.sb}).ask(ctx); c.drawErr != nil {
			return
		}
		c.kernel, c.prng = a.all(), a.PRNG
	}
	var d draws
	if d, c.drawErr = fresh(ctx, c.sb); c.drawErr == nil {
		c.kernel = append(c.kernel, d.all()...)
	}
}

func (d draws) all() []string {
	out := make([]string, 0, len(d.GetRandom)+len(d.UUID4))
	for _, v := range d.GetRandom {
		out = append(out, "getrandom "+v)
	}
	for _, v := range d.UUID4 {
		out = append(out, "uuid4 "+v)
	}
	return out
}

// distinct tells for each child whether no sibling drew a number that it drew. Whole runs of draws
// are compared and not only the first of each, because two copies of one generator are not always
// at the same place in its stream: something else in one of them may have drawn in between. A
// child that drew nothing is not distinct: unknown is not good.
func distinct(children []child) (kernel, prng []bool) {
	kernel = noneShared(children, func(c child) []string { return c.kernel })
	prng = noneShared(children, func(c child) []string { return c.prng })
	return kernel, prng
}

func noneShared(children []child, of func(child) []string) []bool {
	const shared = -1
	owner := map[string]int{}
	for i, c := range children {
		for _, v := range of(c) {
			if first, seen := owner[v]; seen && first != i {
				owner[v] = shared
			} else if !seen {
				owner[v] = i
			}
		}
	}
	out := make([]bool, len(children))
	for i, c := range children {
		out[i] = len(of(c)) > 0
		for _, v := range of(c) {
			out[i] = out[i] && owner[v] != shared
		}
	}
	return out
}
