package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
)

const (
	// minGap is the same as minHole where a base has what is in between.
	minGap = 16 << 10
	// maxParts is how many runs there are with those that remain of bases, of which the written ones are taken away: each is a
	// mapping in all copies, to which that of what they write is added.
	maxParts = 768
	// manyParts is what is put up with where gaps of largeGap are filled already.
	manyParts = 1536
	largeGap  = 4 << 20
	// minHole is the run of zeros that is always left out, in bytes. A shorter one takes less to write than the mapping
	// that would be needed for the other side of it.
	minHole = 64 << 10
	// maxPlaced is how many runs of memory a file has at most: each is a mapping in all copies.
	maxPlaced = 512
)

// run is a run of RAM.
type run struct{ RAM, Size uint64 }

func (r run) end() uint64 { return r.RAM + r.Size }

// content returns the runs of RAM that are to be written, ascending: what is not zero and in no base, with the smallest gaps
// filled.
func content(ctx context.Context, extents []Extent) ([]run, error) {
	var runs, based []run
	hole := uint64(minHole)
	if slices.ContainsFunc(extents, func(e Extent) bool { return e.Based }) {
		hole = minGap
	}
	buf := make([]byte, BlockSize)
	at := uint64(0)
	for _, e := range extents {
		if e.RAM < at || (e.RAM|e.Size|e.Offset)%PageSize != 0 || e.Size == 0 || e.RAM > maxMemory || e.Size > maxMemory-e.RAM {
			return nil, fmt.Errorf("%w: %d bytes at %#x", ErrFormat, e.Size, e.RAM)
		}
		at = e.RAM + e.Size
		if e.Based {
			based = append(based, run{e.RAM, e.Size})
			continue
		}
		for done := uint64(0); done < e.Size; {
			if err := ctx.Err(); err != nil {
				return nil, context.Cause(ctx)
			}
			p := buf[:min(uint64(len(buf)), e.Size-done)]
			if err := readFull(e, done, p); err != nil {
				return nil, err
			}
			runs = appendContent(runs, e.RAM+done, p, hole)
			done += uint64(len(p))
		}
	}
	if len(runs) == 0 && len(based) > 0 { // the copy has written nothing: a file has some memory
		runs = append(runs, run{based[0].RAM, PageSize})
	}
	if len(runs) == 0 {
		return nil, fmt.Errorf("%w: memory of zeros only", ErrFormat)
	}
	for ; ; hole *= 2 {
		runs = fill(runs, hole)
		if len(runs) > maxPlaced {
			continue
		}
		parts := len(runs) + remaining(based, runs)
		if len(runs) == 1 || parts <= maxParts || hole >= largeGap && parts <= manyParts {
			return runs, nil
		}
	}
}

// remaining is how many runs are left of based when those that are written are taken away.
func remaining(based, written []run) (n int) {
	for _, b := range based {
		n += len(cut(b, written))
	}
	return n
}

// cut is what is left of a run when others, ascending and without overlaps, are taken away.
func cut(r run, away []run) (left []run) {
	for _, a := range away {
		if a.end() <= r.RAM {
			continue
		}
		if a.RAM >= r.end() {
			break
		}
		if a.RAM > r.RAM {
			left = append(left, run{r.RAM, a.RAM - r.RAM})
		}
		if a.end() >= r.end() {
			return left
		}
		r = run{a.end(), r.end() - a.end()}
	}
	return append(left, r)
}

// Without is what is left of a run of RAM of so many bytes when what was written is taken away.
func Without(ram, size uint64, written []Placed) (left []Placed) {
	away := make([]run, len(written))
	for i, p := range written {
		away[i] = run{p.RAM, p.Size}
	}
	for _, r := range cut(run{ram, size}, away) {
		left = append(left, Placed{RAM: r.RAM, Size: r.Size, Offset: r.RAM - ram})
	}
	return left
}

var zeros [PageSize]byte

// appendContent adds the pages of p that are not zero. The first one is at ram.
func appendContent(runs []run, ram uint64, p []byte, hole uint64) []run {
	for ; len(p) > 0; p, ram = p[PageSize:], ram+PageSize {
		if bytes.Equal(p[:PageSize], zeros[:]) {
			continue
		}
		if n := len(runs); n > 0 && ram-runs[n-1].end() < hole {
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
