package docker

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/moby/moby/api/pkg/stdcopy"
)

func TestDemux(t *testing.T) {
	for _, c := range []struct {
		name           string
		in             []byte
		stdout, stderr string
		fails          string
	}{
		{name: "nothing"},
		{name: "both", in: bytes.Join([][]byte{frame(1, "a"), frame(2, "b"), frame(1, "c")}, nil), stdout: "ac", stderr: "b"},
		{name: "empty frame", in: append(frame(1, ""), frame(1, "x")...), stdout: "x"},
		{name: "error of the engine", in: append(frame(1, "a"), frame(3, "gone")...), stdout: "a", fails: "gone"},
		{name: "unknown stream", in: frame(9, "a"), fails: "stream 9"},
		{name: "half a header", in: frame(1, "abc")[:5], fails: "EOF"},
		{name: "half a payload", in: frame(1, "abc")[:10], stdout: "ab", fails: "EOF"},
		{name: "length without payload", in: []byte{1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, fails: "EOF"},
	} {
		for how, wrap := range map[string]func(io.Reader) io.Reader{
			"": func(r io.Reader) io.Reader { return r }, "by bytes": iotest.OneByteReader, "with the end": iotest.DataErrReader,
		} {
			var out, errOut bytes.Buffer
			err := demux(&out, &errOut, wrap(bytes.NewReader(c.in)))
			if out.String() != c.stdout || errOut.String() != c.stderr || (err != nil) != (c.fails != "") {
				t.Errorf("%s %s: %q, %q, %v", c.name, how, &out, &errOut, err)
			} else if err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%s %s: %v, want %q", c.name, how, err, c.fails)
			}
		}
	}
}

func TestDemuxReportsTheWriter(t *testing.T) {
	broken := errors.New("broken")
	w := writerFunc(func([]byte) (int, error) { return 0, broken })
	if err := demux(w, io.Discard, bytes.NewReader(frame(1, "a"))); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// FuzzDemux checks that demux agrees with the engine's own decoder on every stream that is whole, and
// that it never yields more than came in.
func FuzzDemux(f *testing.F) {
	f.Add(frame(1, "out"))
	f.Add(append(frame(2, "err"), frame(1, "out")...))
	f.Add(append(frame(0, ""), frame(3, "gone")...))
	f.Add([]byte{1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		var out, errOut bytes.Buffer
		err := demux(&out, &errOut, bytes.NewReader(in))
		if out.Len()+errOut.Len() > len(in) {
			t.Fatalf("%d bytes in, %d out", len(in), out.Len()+errOut.Len())
		}
		if err != nil {
			return
		}
		var wantOut, wantErr bytes.Buffer
		if _, err := stdcopy.StdCopy(&wantOut, &wantErr, bytes.NewReader(in)); err != nil {
			t.Fatalf("the engine's decoder refuses it: %v", err)
		}
		if !bytes.Equal(out.Bytes(), wantOut.Bytes()) || !bytes.Equal(errOut.Bytes(), wantErr.Bytes()) {
			t.Fatal("differs from the engine's decoder")
		}
	})
}

func FuzzRefusalFilter(f *testing.F) {
	f.Add([]byte(refusalPrefix+"x"), uint64(1))
	f.Add([]byte("OCI runtime"), uint64(2))
	f.Fuzz(func(t *testing.T, in []byte, seed uint64) {
		var out bytes.Buffer
		filter := &refusalFilter{w: &out}
		cut := rand.New(rand.NewPCG(seed, 0))
		for rest := in; len(rest) > 0; {
			n := 1 + cut.IntN(len(rest))
			if m, err := filter.Write(rest[:n]); m != n || err != nil {
				t.Fatalf("Write = %d, %v", m, err)
			}
			rest = rest[n:]
		}
		if err := filter.flush(); err != nil || !bytes.Equal(out.Bytes(), in) {
			t.Fatalf("in %q, out %q, %v", in, out.Bytes(), err)
		}
	})
}

func FuzzProcFiles(f *testing.F) {
	f.Add([]byte("12 (a) b) S 7 12 12"))
	f.Add([]byte("8:pids:/docker/abc\n0::/\n3:memory:/../../etc"))
	f.Fuzz(func(t *testing.T, in []byte) {
		parseParent(in)
		for _, dir := range cgroupDirs(in) {
			if !strings.HasPrefix(dir, "/sys/fs/cgroup/") {
				t.Fatalf("%q leads out of the cgroups", dir)
			}
		}
	})
}
