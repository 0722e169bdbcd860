package runtime

import (
	"context"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

// recording is a driver whose sandboxes keep a record of refused flows.
type recording struct{ *runtimetest.Driver }

type recordingBox struct {
	sandbox.Sandbox
	sandbox.Pauser
}

func (d recording) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	sb, err := d.Driver.Create(ctx, spec)
	if err != nil {
		return nil, err
	}
	return recordingBox{sb, sb.(sandbox.Pauser)}, nil
}

func (recordingBox) EgressLog(context.Context) (sandbox.EgressLog, error) {
	return sandbox.EgressLog{Refused: []sandbox.RefusedFlow{{Protocol: "dns", Name: "n", Count: 1}}}, nil
}

// TestEgressLogOnlyLooks reads the record of a sandbox that runs, of one that is paused, and of one that keeps none.
func TestEgressLogOnlyLooks(t *testing.T) {
	w := open(t, func(cfg *Config) { cfg.Drivers[0] = recording{cfg.Drivers[0].(*runtimetest.Driver)} })
	s := w.session(t, SessionSpec{})
	id := s.mustCreate(t, SandboxSpec{})
	read := func() {
		t.Helper()
		if log, err := s.EgressLog(t.Context(), id); err != nil || len(log.Refused) != 1 {
			t.Errorf("%+v, %v", log, err)
		}
	}
	active := s.boxes[id].active
	time.Sleep(2 * time.Millisecond)
	read()
	if s.boxes[id].active != active {
		t.Error("to look was activity")
	}
	if _, err := s.Pause(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	read()
	if info, err := s.Inspect(t.Context(), id); err != nil || info.State != StatePaused {
		t.Errorf("to look let it go on: %+v, %v", info, err)
	}
	other := open(t, nil).session(t, SessionSpec{})
	_, err := other.EgressLog(t.Context(), other.mustCreate(t, SandboxSpec{}))
	want(t, "where none is kept", err, CodeUnsupported)
}
