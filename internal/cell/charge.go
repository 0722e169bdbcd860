package cell

import (
	"fmt"
	"os"
	"sync/atomic"
)

// layerUse counts who has a layer beside the guest that has written it: branches, and cells that were started from them. All of
// this process that have the layer share it. It is nil for a file on disk, for which no cell is charged.
type layerUse struct {
	size  int64 // in bytes of memory
	users atomic.Int64
}

func (u *layerUse) hold() {
	if u != nil {
		u.users.Add(1)
	}
}

func (u *layerUse) release() {
	if u != nil {
		u.users.Add(-1)
	}
}

// take counts the cell as one that has the layers of the branch that it is started from.
func (c *Cell) take(layers []*os.File, uses []*layerUse) error {
	c.branching.Lock()
	defer c.branching.Unlock()
	if c.given == nil {
		return fmt.Errorf("%w: closed", ErrEnded)
	}
	for i, f := range layers {
		id, _, err := layerSize(f)
		if err != nil {
			return err
		}
		var use *layerUse
		if i < len(uses) {
			use = uses[i]
		}
		if _, twice := c.given[id]; !twice {
			use.hold()
			c.given[id] = use
		}
	}
	return nil
}

// letGo undoes take.
func (c *Cell) letGo() {
	c.branching.Lock()
	defer c.branching.Unlock()
	for _, use := range c.given {
		use.release()
	}
	c.given = nil
}

func releaseAll(uses []*layerUse) {
	for _, u := range uses {
		u.release()
	}
}

// charge makes the layers of a new branch, and those of earlier ones that somebody else still has, what this cell is charged for:
// no others can be left of it. It returns who uses each of the branch's, which is counted as one more. On error nothing has
// changed. The caller holds c.branching.
func (c *Cell) charge(layers []*os.File) ([]*layerUse, error) {
	own, uses := map[fileID]*layerUse{}, make([]*layerUse, 0, len(layers))
	for _, f := range layers {
		id, size, err := layerSize(f)
		if err != nil {
			return nil, err
		}
		use, given := c.given[id] // somebody else is charged for these
		if !given {
			if use = c.own[id]; use == nil {
				use = own[id] // a cell may send a file twice
			}
			if use == nil {
				use = &layerUse{size: size}
			}
			own[id] = use
		}
		uses = append(uses, use)
	}
	for id, use := range c.own {
		if use.users.Load() > 0 { // what nobody has any more, nobody can get again
			own[id] = use
		}
	}
	c.own, c.lost = own, 0
	// The cell frees them when its guest goes on, which writes meanwhile, or has some mapped until the next branch
	// (guestmem.Memory.Settle). It was charged for them until now: a cell that only says that it has left them gets nothing new,
	// and has it for one branch.
	c.settling = c.process.charge(c, own)
	for _, use := range uses {
		use.hold()
	}
	return uses, nil
}

// layerCharge says who is charged for a layer: a cell, or, with nil, the process, in which the one that wrote it has ended.
type layerCharge struct {
	by  *Cell
	use *layerUse
}

// charge has a cell be charged for these layers and no others, and returns how many bytes it was charged for until now. A layer
// counts once in a process, however many of its cells say that they have written it.
func (p *process) charge(c *Cell, own map[fileID]*layerUse) (left int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, was := range p.charges {
		if was.by == c && own[id] == nil {
			left += was.use.size
			delete(p.charges, id)
		}
	}
	if p.charges == nil {
		p.charges = map[fileID]layerCharge{}
	}
	for id, use := range own {
		if was, charged := p.charges[id]; !charged || was.by == nil { // else the first one's, whoever says what
			p.charges[id] = layerCharge{c, use}
		}
	}
	return left
}

// allow changes what the cell may have in its process's control group, beside the layers that it is charged for, to what it may
// always have and so many bytes more.
func (c *Cell) allow(more int64) error { return c.process.allow(c, c.share+more) }

// allow changes what a cell may have in the control group beside layers to so many bytes. The limit is that of all cells, and the
// layers that they are charged for, and those that ended cells have left there.
func (p *process) allow(c *Cell, bytes int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	total := p.allowed - c.allowed + bytes
	if err := p.limit(total); err != nil {
		return err
	}
	p.allowed, c.allowed = total, bytes
	return nil
}

// limit has the group bound so many bytes and the layers. The caller holds p.mu.
func (p *process) limit(bytes int64) error {
	for id, layer := range p.charges {
		if layer.by == nil && layer.use.users.Load() == 0 {
			delete(p.charges, id)
			continue
		}
		bytes += layer.use.size
	}
	return p.group.allow(bytes)
}

// forget takes back what a cell that has ended may have, but for its layers that others have.
func (p *process) forget(c *Cell) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.allowed, c.allowed = p.allowed-c.allowed, 0
	for id, layer := range p.charges {
		if layer.by == c {
			p.charges[id] = layerCharge{nil, layer.use}
		}
	}
	if p.users > 0 {
		_ = p.limit(p.allowed) // when it fails, the others may take more than they should, until the next time
	}
}
