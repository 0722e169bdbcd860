package sandboxtest

import (
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// Bench runs all benchmarks. They are for looking at a change of a driver; the judge measures with
// package internal/bench.
func Bench(b *testing.B, c Config) {
	newDriver := func(b *testing.B) sandbox.Driver {
		d, err := c.New()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = d.Close() })
		return d
	}
	create := func(b *testing.B, d sandbox.Driver) sandbox.Sandbox {
		box, err := d.Create(b.Context(), sandbox.Spec{Image: c.Image, VCPUs: c.VCPUs})
		if err != nil {
			b.Fatal(err)
		}
		return box
	}
	run := func(b *testing.B, box sandbox.Sandbox) {
		if exit, err := box.Exec(b.Context(), args("true")); err != nil || !exit.Success() {
			b.Fatalf("%v, %v", exit, err)
		}
	}
	b.Run("CreateExecClose", func(b *testing.B) {
		d := newDriver(b)
		for b.Loop() {
			box := create(b, d)
			run(b, box)
			if err := box.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Exec", func(b *testing.B) {
		box := create(b, newDriver(b))
		for b.Loop() {
			run(b, box)
		}
	})
	b.Run("ExecApart", func(b *testing.B) { // from each other, as those of somebody who thinks in between
		box := create(b, newDriver(b))
		for b.Loop() {
			b.StopTimer()
			time.Sleep(30 * time.Millisecond)
			b.StartTimer()
			run(b, box)
		}
	})
	b.Run("Stdin50MiB", func(b *testing.B) {
		box := create(b, newDriver(b))
		b.SetBytes(50 << 20)
		for b.Loop() {
			exit, err := box.Exec(b.Context(), sandbox.Cmd{Args: []string{"cat"}, Stdin: patternReader(50 << 20), Stdout: &counter{}})
			if err != nil || !exit.Success() {
				b.Fatalf("%v, %v", exit, err)
			}
		}
	})
}
