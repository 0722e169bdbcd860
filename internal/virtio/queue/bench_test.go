package queue

import "testing"

// One chain taken and given back: the device's share of a request.
func BenchmarkPopPush(b *testing.B) {
	for _, bc := range []struct {
		name    string
		opt     Options
		batch   int
		chained bool
	}{
		{"one", Options{EventIdx: true}, 1, false},
		{"batch of 64", Options{EventIdx: true}, 64, false},
		{"batch of 64, three descriptors", Options{EventIdx: true}, 64, true},
	} {
		b.Run(bc.name, func(b *testing.B) {
			g := newGuest(b)
			q := g.queue(256, bc.opt)
			for i := range 256 {
				g.desc(descAt, i, descriptor{dataAt, 4096, descWrite, 0})
			}
			if bc.chained {
				g.desc(descAt, 0, descriptor{dataAt, 16, descNext, 1})
				g.desc(descAt, 1, descriptor{dataAt, 4096, descWrite | descNext, 2})
			}
			idx := uint16(0)
			serve := func(*Chain) (uint32, error) { return 0, nil }
			for i := 0; i < b.N; i += bc.batch {
				idx += uint16(bc.batch)
				if err := g.mem.StoreUint16(availAt+2, idx); err != nil {
					b.Fatal(err)
				}
				if _, _, err := q.Drain(q.Size(), serve); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
