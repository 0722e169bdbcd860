package guestmem

import (
	"fmt"
	"testing"
)

// BenchmarkForkExtents is what a fork costs by the number of its mappings: pages of one layer over another one.
func BenchmarkForkExtents(b *testing.B) {
	const size, upper = 256 << 20, 512
	lower, pages := frozen(b, "x", size), frozen(b, "y", upper*PageSize)
	for _, n := range []uint64{0, 32, 128, upper} {
		extents := []Extent{lower.Extent()}
		for i := range n {
			extents = overlay(extents, []Extent{{RAM: size / n * i, Size: PageSize, Layer: pages, Offset: i * PageSize}})
		}
		b.Run(fmt.Sprintf("extents=%d", len(extents)), func(b *testing.B) {
			for b.Loop() {
				m, err := Fork(size, extents, Options{})
				if err != nil {
					b.Fatal(err)
				}
				if err := m.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
