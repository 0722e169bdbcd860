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
	var left int64
	for id, use := range c.own {
		if use.users.Load() > 0 { // what nobody has any more, nobody can get again
			own[id] = use
		} else if own[id] == nil {
			left += use.size
		}
	}
	c.own, c.layered, c.lost = own, 0, 0
	// The cell frees them when its guest goes on, which writes meanwhile, or has some mapped until the next branch
	// (guestmem.Memory.Settle). It was charged for them until now: a cell that only says that it has left them gets nothing new,
	// and has it for one branch.
	c.settling = left
	for _, use := range own {
		c.layered += use.size
	}
	for _, use := range uses {
		use.hold()
	}
	return uses, nil
}
