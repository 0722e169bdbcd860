package agentproto

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestChanges(t *testing.T) {
	for _, want := range []Change{
		{Path: "/a", Gone: true},
		{Path: "/a\xff\n", Mode: fs.ModeSymlink | 0o777, Size: 5, UID: 1, GID: 1 << 31, Modified: time.Unix(-5, 7), Changed: time.Unix(9, 0), Target: "t", Digest: strings.Repeat("d", DigestSize)},
	} {
		if got, err := DecodeChange(AppendChange(nil, want)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
	for name, bad := range map[string]Change{"digest": {Path: "/a", Digest: "short"}, "size": {Path: "/a", Size: -1}} {
		if got, err := DecodeChange(AppendChange(nil, bad)); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	for _, want := range []Request{
		{Op: OpChanges}, {Op: OpChanges, Path: "/a/\xff", Size: 7}, {Op: OpExamine}, {Op: OpExamine, Wants: []Want{{"/a", -1}, {"/b", 0}, {"", 1 << 62}}},
	} {
		if got, err := DecodeRequest(want.Append(nil)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v; want %+v", want.Op, got, err, want)
		}
	}
	many := Request{Op: OpExamine, Wants: make([]Want, MaxWants+1)}
	if _, err := DecodeRequest(many.Append(nil)); !errors.Is(err, ErrProtocol) {
		t.Errorf("too many: %v", err)
	}
	if got, err := DecodeWalked(Walked{More: true, Skipped: 3}.Append(nil)); err != nil || got != (Walked{true, 3}) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// FuzzChanges plays a guest that answers anything, over a connection and as the output of a program.
func FuzzChanges(f *testing.F) {
	f.Add(AppendFrame(AppendFrame(nil, KindChange, AppendChange(nil, Change{Path: "/a"})), KindDone, Walked{More: true}.Append(nil)))
	f.Add(AppendFrame(AppendFrame(nil, KindOutput, nil), KindFail, NewFailure(fs.ErrNotExist).Append(nil)))
	f.Add(AppendFrame(nil, KindEntry, []byte{0}))
	f.Fuzz(func(t *testing.T, said []byte) {
		var direct []Change
		_, errDirect := ReadReply(bytes.NewReader(said), func(c Change) error {
			direct = append(direct, c)
			return nil
		})
		c := Client{Dial: func(context.Context) (net.Conn, error) {
			host, guest := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, guest) }()
			go func() {
				_, _ = guest.Write(said)
				_ = guest.Close()
			}()
			return host, nil
		}}
		var list []Change
		err := c.Examine(t.Context(), []Want{{Path: "/a"}}, func(c Change) error {
			list = append(list, c)
			return nil
		})
		if err == nil && errDirect == nil && !reflect.DeepEqual(list, direct) {
			t.Errorf("%+v and %+v", list, direct)
		}
	})
}

// A caller that has enough ends it, however much the guest sends.
func TestChangesEnd(t *testing.T) {
	frame := AppendFrame(nil, KindChange, AppendChange(nil, Change{Path: "/a"}))
	enough := errors.New("enough")
	c := Client{Dial: func(context.Context) (net.Conn, error) {
		host, guest := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, guest) }()
		go func() {
			for {
				if _, err := guest.Write(frame); err != nil {
					return
				}
			}
		}()
		return host, nil
	}}
	n := 0
	if _, err := c.Changes(t.Context(), "", 10, func(Change) error {
		if n++; n == 100 {
			return enough
		}
		return nil
	}); !errors.Is(err, enough) || n != 100 {
		t.Errorf("%d changes, %v", n, err)
	}
}
