package aethervm

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/agentsandbox"
)

// A thaw is asked for again for as long as there is no way to ask, and for no other reason.
func TestThawIsInsistedOn(t *testing.T) {
	other := errors.New("other")
	for name, c := range map[string]struct {
		first error
		calls int
	}{
		"no descriptors": {unix.EMFILE, 3},
		"no memory":      {unix.ENOBUFS, 3},
		"other":          {other, 1},
	} {
		calls := 0
		s := &Sandbox{Sandbox: &agentsandbox.Sandbox{}}
		s.Client = agentproto.Client{Dial: func(context.Context) (net.Conn, error) {
			if calls++; calls < 3 {
				return nil, c.first
			}
			return nil, other
		}}
		if err := s.thaw(t.Context()); !errors.Is(err, other) || calls != c.calls {
			t.Errorf("%s: %v after %d calls", name, err, calls)
		}
	}
	s := &Sandbox{Sandbox: &agentsandbox.Sandbox{}}
	s.Client = agentproto.Client{Dial: func(context.Context) (net.Conn, error) { return nil, unix.EMFILE }}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.thaw(ctx); err == nil {
		t.Error("no error")
	}
}

func TestReserve(t *testing.T) {
	f, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before := names(t, "/proc/self/fd")
	release, err := reserve(f)
	if err != nil {
		t.Fatal(err)
	}
	if names(t, "/proc/self/fd") == before {
		t.Error("nothing is kept")
	}
	release()
	release()
	if after := names(t, "/proc/self/fd"); after != before {
		t.Errorf("%s, before %s", after, before)
	}
}
