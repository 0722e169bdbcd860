package guestmem

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// recorded are runs of pages of a Linux guest of 256 MiB: those of the layer with which it has booted, and those that each of 49
// generations has written, which was told who it is and has run a program (bench/fork).
func recorded(t *testing.T) (base []span, generations [][]span) {
	t.Helper()
	file, err := os.Open("testdata/linux-generations.txt.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	text, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		what, list, _ := strings.Cut(lines.Text(), " ")
		var spans []span
		for word := range strings.FieldsSeq(list) {
			var first, n uint64
			if _, err := fmt.Sscanf(word, "%d+%d", &first, &n); err != nil {
				t.Fatal(err)
			}
			spans = append(spans, span{first * PageSize, (first + n) * PageSize})
		}
		if what == "base" {
			base = spans
		} else {
			generations = append(generations, spans)
		}
	}
	if err := lines.Err(); err != nil || base == nil || len(generations) != 49 {
		t.Fatalf("%d generations: %v", len(generations), err)
	}
	return base, generations
}

// TestRecordedGenerations has memory written as Linux has written it, and holds what copies are then made of to its bounds.
// With -v it tells what each step has taken.
func TestRecordedGenerations(t *testing.T) {
	p := pagemap(t)
	const size = 256 * mib
	base, generations := recorded(t)
	file, err := memfd(size)
	if err != nil {
		t.Fatal(err)
	}
	page := bytes.Repeat([]byte{1}, PageSize)
	for _, s := range base {
		for at := s.start; at < s.end; at += PageSize {
			if err := writeAll(file, page, int64(at)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := seal(file); err != nil {
		t.Fatal(err)
	}
	first := &Layer{file: file, size: size}
	image, err := NewImage(size, []*Layer{first}, extentsOf(first, base))
	if err != nil {
		t.Fatal(err)
	}
	var took [3]time.Duration // to fork, to split, to make the image
	step := func(i int, do func() error) {
		begin := time.Now()
		if err := do(); err != nil {
			t.Fatal(err)
		}
		took[i] += time.Since(begin)
	}
	var written, added, extents uint64
	for i, spans := range generations {
		var m *Memory
		var next *Image
		step(0, func() (err error) { m, err = image.Fork(Options{}); return err })
		for _, s := range spans {
			for at := s.start; at < s.end; at += PageSize {
				m.mapping.mem[at] = byte(i)
			}
		}
		step(1, func() error { return m.Split(p) })
		now := total(m.split.written)
		step(2, func() (err error) { next, err = m.Image(dearRun / cheapRun); return err })
		top := uint64(allocated(t, next.Layers()[len(next.Layers())-1]))
		n := len(runsOf(size, next.extents, nil))
		if n > fewRuns || len(next.Layers()) > fewLayers+1 {
			t.Errorf("generation %d has %d runs, of %d layers", i+2, n, len(next.Layers()))
		}
		if most := mostOfLayer(now, size); top > most {
			t.Errorf("generation %d: %d bytes for %d", i+2, top, now)
		}
		if g := i + 2; g == 2 || g%8 == 2 {
			t.Logf("generation %2d: %4d pages in its layer for %3d written and near, %d extents, %d runs, %d layers", g, top/PageSize, now/PageSize,
				len(next.extents), n, len(next.Layers()))
		}
		written, added, extents = written+now, added+top-now, extents+uint64(len(next.extents))
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := image.Close(); err != nil {
			t.Error(err)
		}
		image = next
	}
	if err := image.Close(); err != nil {
		t.Error(err)
	}
	n := uint64(len(generations))
	t.Logf("means: %d pages written and near, %d added, %d extents; fork %.2f ms, split %.2f, image %.2f", written/n/PageSize, added/n/PageSize, extents/n,
		float64(took[0].Microseconds())/1000/float64(n), float64(took[1].Microseconds())/1000/float64(n), float64(took[2].Microseconds())/1000/float64(n))
	if added > 8*written {
		t.Errorf("%d bytes were added to %d", added, written)
	}
}
