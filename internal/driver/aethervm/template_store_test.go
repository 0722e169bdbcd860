package aethervm

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

// publishMachine publishes a template that has a machine, whose digest it returns.
func publishMachine(t *testing.T, s *templates, name, content string) (string, error) {
	t.Helper()
	m, err := s.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	digest := machineFile(t, m.dir, content)
	err = m.publish(t.Context(), sandbox.Template{System: System, Name: name, Digest: digest, Spec: sandbox.Spec{Image: sandbox.Image{Rootfs: "/x"}}})
	return digest, errors.Join(err, m.abandon())
}

func store(t *testing.T) *templates {
	t.Helper()
	t.Setenv("AETHER_STATE", t.TempDir())
	s, err := openTemplates()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A template's name is its content's: another machine in its place is refused.
func TestTemplateContent(t *testing.T) {
	s := store(t)
	digest, err := publishMachine(t, s, "a", "1")
	if err != nil {
		t.Fatal(err)
	}
	found, dir, f, err := s.open(t.Context(), "open", "a")
	if err != nil || found.Digest != digest || f.Digest() != digest {
		t.Fatalf("%+v, %v", found, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(dir, machineName)); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := s.open(t.Context(), "open", "a"); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("without a machine: %v", err)
	}
	machineFile(t, dir, "2")
	if _, _, _, err := s.open(t.Context(), "open", "a"); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("with another machine: %v", err)
	}
}

// A template that does not get its name leaves nothing, nor does one whose maker was killed at any place.
func TestTemplateUnnamed(t *testing.T) {
	s := store(t)
	taken := filepath.Join(s.dir, namesName, "a", "b")
	if err := os.MkdirAll(taken, 0o700); err != nil { // no link can take its place
		t.Fatal(err)
	}
	if _, err := publishMachine(t, s, "a", "1"); err == nil {
		t.Error("it was published")
	}
	if left := inStore(t, s); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
	digest, err := publishMachine(t, s, "b", "2")
	if err != nil {
		t.Fatal(err)
	}
	// Between the content and the link, and between the link and the name.
	dir := filepath.Join(s.dir, contentPrefix+"1")
	link := filepath.Join(s.dir, makingPrefix+lease.NewID())
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, machineName), nil, 0o600), os.Symlink("../sha256-1", link)); err != nil {
		t.Fatal(err)
	}
	m, err := s.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.abandon(); err != nil {
		t.Error(err)
	}
	if left := inStore(t, s); len(left) != 1 || left[0] != contentName(digest) {
		t.Errorf("left: %q", left)
	}
}

// While a template is replaced, its name always leads to one of both, and who has opened one keeps it.
func TestTemplateReplaced(t *testing.T) {
	s := store(t)
	if _, err := publishMachine(t, s, "a", "0"); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var users sync.WaitGroup
	for range 2 {
		users.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				_, dir, f, err := s.open(t.Context(), "open", "a")
				if err != nil {
					t.Error(err)
					return
				}
				err = verifyOnce(t.Context(), dir, stampName, f)
				if err := errors.Join(err, f.Close()); err != nil {
					t.Error(err)
				}
				if list, err := s.list(t.Context()); err != nil || len(list) != 1 {
					t.Errorf("%v, %v", list, err)
				}
			}
		})
	}
	for i := range 60 {
		if _, err := publishMachine(t, s, "a", string("01"[i%2])); err != nil {
			t.Error(err)
		}
	}
	close(done)
	users.Wait()
	m, err := s.begin(t.Context()) // removes what a stamp that was being written has kept
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.abandon(), s.remove(t.Context(), "remove", "a")); err != nil {
		t.Error(err)
	}
	if left := inStore(t, s); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}
