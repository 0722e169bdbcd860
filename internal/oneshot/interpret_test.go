package oneshot

import (
	"errors"
	"testing"

	"github.com/aethervm/aether/sandbox"
)

// FuzzInterpret feeds statuses that a hostile sandbox could make up.
func FuzzInterpret(f *testing.F) {
	f.Add([]byte(`{"code":0,"signal":9,"timed_out":true}`), 137)
	f.Add([]byte(`{"cannot_run":"x: no such file"}`), 127)
	f.Add([]byte(``), 255)
	f.Add([]byte(`{"signal":-1}`), 200)
	f.Fuzz(func(t *testing.T, out []byte, code int) {
		code &= 0xff
		exit, err := interpret(out, code, func(string) error { return sandbox.ErrCannotRun })
		if err != nil {
			if !errors.Is(err, sandbox.ErrCannotRun) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if exit.Signal < 0 || exit.Signal > 64 || (exit.Signal != 0) != (exit.Code == -1) || exit.Code > 255 {
			t.Fatalf("impossible exit %+v", exit)
		}
	})
}
