package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

const (
	// minHole is the run of zeros that is always left out, in bytes. A shorter one takes less to write than the mapping
	// that would be needed for the other side of it.
	minHole = 64 << 10
	// maxPlaced is how many runs of memory a file has at most: each is a mapping in all copies.
	maxPlaced = 512
)

// run is a run of RAM.
type run struct{ RAM, Size uint64 }

func (r run) end() uint64 { return r.RAM + r.Size }

// content returns the runs of RAM that are not zero, ascending, with the smallest gaps filled.
func content(ctx context.Context, extents []Extent) ([]run, error) {
	var runs []run
	buf := make([]byte, BlockSize)
	at := uint64(0)
	for _, e := range extents {
		if e.RAM < at || (e.RAM|e.Size|e.Offset)%PageSize != 0 || e.Size == 0 || e.RAM > maxMemory || e.Size > maxMemory-e.RAM {
			return nil, fmt.Errorf("%w: %d bytes at %#x", ErrFormat, e.Size, e.RAM)
		}
		at = e.RAM + e.Size
		for done := uint64(0); done < e.Size; {
			if err := ctx.Err(); err != nil {
				return nil, context.Cause(ctx)
			}
			p := buf[:min(uint64(len(buf)), e.Size-done)]
			if err := readFull(e, done, p); err != nil {
				return nil, err
			}
			runs = appendContent(runs, e.RAM+done, p)
			done += uint64(len(p))
		}
	}
	if len(runs) == 0 {
		return nil, fmt.Errorf("%w: memory of zeros only", ErrFormat)
	}
	for hole := uint64(minHole); ; hole *= 2 {
		runs = fill(runs, hole)
		if len(runs) <= maxPlaced {
			return runs, nil
		}
	}
}

var zeros [PageSize]byte

// appendContent adds the pages of p that are not zero. The first one is at ram.
func appendContent(runs []run, ram uint64, p []byte) []run {
	for ; len(p) > 0; p, ram = p[PageSize:], ram+PageSize {
		if bytes.Equal(p[:PageSize], zeros[:]) {
			continue
		}
		if n := len(runs); n > 0 && ram-runs[n-1].end() < minHole {
			runs[n-1].Size = ram + PageSize - runs[n-1].RAM
		} else {
			runs = append(runs, run{ram, PageSize})
		}
	}
	return runs
}

// fill joins runs with less than hole bytes between them.
func fill(runs []run, hole uint64) []run {
	out := runs[:1]
	for _, r := range runs[1:] {
		if last := &out[len(out)-1]; r.RAM-last.end() < hole {
			last.Size = r.end() - last.RAM
		} else {
			out = append(out, r)
		}
	}
	return out
}

// readRAM reads RAM from ram on: what the extents have, and zeros between them. Extents before index from end before
// ram; the index for a later call is returned.
func readRAM(extents []Extent, from int, ram uint64, p []byte) (next int, err error) {
	for len(p) > 0 {
		for from < len(extents) && extents[from].RAM+extents[from].Size <= ram {
			from++
		}
		n := uint64(len(p))
		if from == len(extents) || extents[from].RAM >= ram+n {
			clear(p)
			return from, nil
		}
		e := extents[from]
		if e.RAM > ram {
			n = e.RAM - ram
			clear(p[:n])
		} else {
			n = min(n, e.RAM+e.Size-ram)
			if err := readFull(e, ram-e.RAM, p[:n]); err != nil {
				return from, err
			}
		}
		p, ram = p[n:], ram+n
	}
	return from, nil
}

// readFull reads from within an extent.
func readFull(e Extent, off uint64, p []byte) error {
	n, err := e.Source.ReadAt(p, int64(e.Offset+off))
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes of RAM at %#x: %w", len(p), e.RAM+off, err)
}
