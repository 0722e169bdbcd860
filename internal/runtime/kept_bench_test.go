package runtime

import (
	"testing"
	"time"
)

// BenchmarkKeptInterpreter is what the first code costs in a fresh fork of a running sandbox that has a kept interpreter:
// directly and by a program that passes it on, beside a program that does the same without an interpreter that is kept.
// Of each time, fork-ms is the fork, and code-ms what follows: the copy's first operation.
func BenchmarkKeptInterpreter(b *testing.B) {
	s := openReal(b, "aethervm", "REAL_KVM")
	parent := s.mustCreate(b, SandboxSpec{})
	if _, err := s.Code(b.Context(), CodeRequest{Sandbox: parent, Code: "x = 1", Timeout: time.Minute}); err != nil {
		b.Fatal(err)
	}
	fork := func(b *testing.B) string {
		b.Helper()
		res, err := s.Fork(b.Context(), ForkRequest{Sandbox: parent, Count: 1})
		if err != nil {
			b.Fatal(err)
		}
		return res.Children[0].Sandbox.ID
	}
	kill := func(b *testing.B, id string) {
		b.Helper()
		if err := s.Kill(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
	kill(b, fork(b)) // the first one takes longer
	code := func(directly bool) func(b *testing.B, id string) {
		return func(b *testing.B, id string) {
			u, err := s.enter(b.Context(), "code", id, forWork)
			if err != nil {
				b.Fatal(err)
			}
			defer u.end()
			if !directly {
				u.raw = nil // without its abilities
			}
			lang, err := Python.def("code")
			if err != nil {
				b.Fatal(err)
			}
			res, err := u.b.code(u, lang, CodeRequest{Language: Python, Code: "print(1)", Timeout: time.Minute})
			if err != nil || res.Stdout != "1\n" || res.Fresh {
				b.Fatalf("%+v, %v", res, err)
			}
		}
	}
	for _, way := range []struct {
		name string
		do   func(b *testing.B, id string)
	}{
		{"directly", code(true)},
		{"by-program", code(false)},
		{"exec-true", func(b *testing.B, id string) { s.mustRun(b, id, "true") }},
		{"exec-python", func(b *testing.B, id string) {
			if res := s.mustRun(b, id, "exec python3 -c 'print(1)'"); res.Stdout != "1\n" {
				b.Fatalf("%+v", res)
			}
		}},
	} {
		b.Run(way.name, func(b *testing.B) {
			var forks, codes time.Duration
			for b.Loop() {
				begin := time.Now()
				id := fork(b)
				forked := time.Now()
				way.do(b, id)
				codes += time.Since(forked)
				forks += forked.Sub(begin)
				b.StopTimer()
				kill(b, id)
				b.StartTimer()
			}
			ms := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(b.N) }
			b.ReportMetric(ms(forks), "fork-ms")
			b.ReportMetric(ms(codes), "code-ms")
		})
	}
}
