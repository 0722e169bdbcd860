package runtime

import (
	"testing"

	"github.com/aethervm/aether/sandbox"
)

// BenchmarkOverhead is what the runtime adds to a run: the system in memory takes about a microsecond.
func BenchmarkOverhead(b *testing.B) {
	w := open(b, nil)
	s := w.session(b, SessionSpec{})
	id := s.mustCreate(b, SandboxSpec{})
	b.Run("run", func(b *testing.B) {
		for b.Loop() {
			s.mustRun(b, id, "true")
		}
	})
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Read(b.Context(), ReadRequest{Sandbox: id, Path: "/etc/os-release"}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("create and kill", func(b *testing.B) {
		for b.Loop() {
			if err := s.Kill(b.Context(), s.mustCreate(b, SandboxSpec{})); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("driver", func(b *testing.B) {
		sb, err := w.d.Create(b.Context(), sandbox.Spec{Image: sandbox.Image{Rootfs: "/nowhere"}})
		if err != nil {
			b.Fatal(err)
		}
		defer sb.Close()
		for b.Loop() {
			if _, err := sb.Exec(b.Context(), sandbox.Cmd{Args: []string{"true"}}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
