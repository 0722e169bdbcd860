package vmm

import (
	"os"

	"github.com/aethervm/aether/internal/guestmem"
)

// Place is a run of RAM, in bytes and whole pages, whose content is in a layer if the guest has not written it since. RAM is
// counted without the hole below 4 GiB.
type Place struct {
	RAM, Size uint64
	Layer     int // index
}

// Layers returns the layers that the guest's memory is mapped from, and which part of it each has, ascending; what is in none
// began as zeros. The files stay the VM's, and are valid until it is branched or closed.
func (vm *VM) Layers() ([]*os.File, []Place) {
	vm.branching.Lock()
	defer vm.branching.Unlock()
	layers, extents := vm.memory.Extents()
	files, index := make([]*os.File, len(layers)), map[*guestmem.Layer]int{}
	for i, l := range layers {
		files[i], index[l] = l.File(), i
	}
	places := make([]Place, len(extents))
	for i, e := range extents {
		places[i] = Place{RAM: e.RAM, Size: e.Size, Layer: index[e.Layer]}
	}
	return files, places
}

// Own tells which pages of RAM the guest has for itself, and no layer has: those that were written since the VM was made or
// last branched. There is a bit for each page from the byte from on, the lowest first. The guest goes on meanwhile.
func (vm *VM) Own(from uint64, bits []byte) error {
	vm.branching.Lock()
	defer vm.branching.Unlock()
	pages, err := vm.pagemap()
	if err != nil {
		return err
	}
	return vm.memory.Own(pages, from, bits)
}
