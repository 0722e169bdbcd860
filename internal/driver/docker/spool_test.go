package docker

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

func TestSpoolHoldsBackAFastWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpool()
		written := 0
		go func() {
			for range 64 {
				n, _ := s.Write(make([]byte, 32<<10))
				written += n
			}
			s.end(io.EOF)
		}()
		synctest.Wait()
		if written != spoolRunning || s.stalled(time.Second) {
			t.Fatalf("%d bytes written without a reader", written)
		}
		time.Sleep(time.Second)
		if !s.stalled(time.Second) {
			t.Fatal("not stalled after a second")
		}
		s.widen()
		synctest.Wait()
		if written != 2<<20 || s.stalled(0) {
			t.Fatalf("%d bytes written after widening", written)
		}
		if n, err := io.Copy(io.Discard, s); n != 2<<20 || err != nil {
			t.Fatalf("read %d, %v", n, err)
		}
	})
}

func TestSpoolKeepsOrderAndError(t *testing.T) {
	s := newSpool()
	broken := errors.New("broken")
	var want bytes.Buffer
	go func() {
		for i := range 100_000 {
			b := []byte{byte(i), byte(i >> 8)}
			want.Write(b)
			_, _ = s.Write(b)
		}
		s.end(broken)
	}()
	got, err := io.ReadAll(s)
	if !errors.Is(err, broken) || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestSpoolLetsGoOfTheWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpool()
		go func() { _, _ = s.Write(make([]byte, spoolRunning)); _, _ = s.Write([]byte("x")) }()
		synctest.Wait()
		s.leave()
		synctest.Wait() // the test fails if the writer still waits at its end
	})
}
