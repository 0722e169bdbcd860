package keeper

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// fake is a sandbox that counts how often it was closed.
type fake struct {
	sandbox.Sandbox
	id     string
	closed int
	err    error
}

func (f *fake) ID() string   { return f.id }
func (f *fake) Close() error { f.closed++; return f.err }

// counted is a keeper that acquires numbers and counts what it has.
func counted() (k *Keeper[int], acquired *int) {
	acquired = new(int)
	k = New("sys", func() (int, error) { *acquired++; return 7, nil }, func(n int) error {
		if *acquired--; n != 7 {
			return errors.New("that was not acquired")
		}
		return nil
	})
	return k, acquired
}

func launching(f *fake) func(context.Context, int) (sandbox.Sandbox, error) {
	return func(context.Context, int) (sandbox.Sandbox, error) { return f, nil }
}

func TestKeeper(t *testing.T) {
	k, acquired := counted()
	broken := errors.New("broken")
	a, b, c := &fake{id: "a"}, &fake{id: "b", err: broken}, &fake{id: "c"}
	for _, f := range []*fake{a, b, c} {
		if s, err := k.Start(t.Context(), "create", launching(f)); s != f || err != nil {
			t.Fatalf("started %v, %v", s, err)
		}
	}
	if _, err := k.Start(t.Context(), "create", func(context.Context, int) (sandbox.Sandbox, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if *acquired != 1 {
		t.Errorf("acquired %d times", *acquired)
	}
	k.Forget("c")
	if err := k.Close(); !errors.Is(err, broken) {
		t.Errorf("close: %v", err)
	}
	if a.closed != 1 || b.closed != 1 || c.closed != 0 || *acquired != 0 {
		t.Errorf("closed %d, %d, %d times, %d acquired", a.closed, b.closed, c.closed, *acquired)
	}
	k.Forget("a")
	k.Forget("b")
	if err := k.Close(); err != nil || *acquired != 0 {
		t.Errorf("closed again: %v", err)
	}
	var e *sandbox.Error
	if _, err := k.Start(t.Context(), "create", launching(a)); !errors.Is(err, sandbox.ErrClosed) || !errors.As(err, &e) || e.Op != "create" || e.System != "sys" {
		t.Errorf("start after close: %v", err)
	}
}

func TestNothingToRelease(t *testing.T) {
	failed := errors.New("no place")
	k := New("sys", func() (int, error) { return 0, failed }, func(int) error { return errors.New("released") })
	if _, err := k.Start(t.Context(), "create", launching(nil)); !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

// A start that is under way ends with its context or with the keeper, and says which.
func TestStartIsBrokenOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, acquired := counted()
		slow := func(ctx context.Context, _ int) (sandbox.Sandbox, error) {
			<-ctx.Done()
			time.Sleep(time.Second) // until nothing is left
			return nil, errors.New("what came of it")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := k.Start(ctx, "create", slow); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		ended := make(chan error)
		go func() {
			_, err := k.Start(t.Context(), "create", slow)
			ended <- err
		}()
		synctest.Wait()
		go func() {
			err := k.Close()
			if *acquired != 0 {
				err = errors.Join(err, errors.New("not released"))
			}
			ended <- err
		}()
		if err := <-ended; !errors.Is(err, sandbox.ErrClosed) {
			t.Errorf("the start said %v", err)
		}
		if err := <-ended; err != nil {
			t.Errorf("close: %v", err)
		}
	})
}
