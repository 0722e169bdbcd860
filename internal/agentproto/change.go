package agentproto

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math"
	"time"
)

const (
	// MaxWants bounds the paths of one OpExamine.
	MaxWants = 4096
	// DigestSize is that of a digest in bytes: SHA-256.
	DigestSize = 32
)

// Change is a path that was written since the sandbox's image was made, in a reply to OpChanges, or one that was asked
// for by OpExamine.
type Change struct {
	Path string // absolute
	// Gone says that nothing is there, and that the rest does not count.
	Gone     bool
	Mode     fs.FileMode
	Size     int64
	UID, GID uint32
	// Modified and Changed are when the content, and the file as a whole, was last written.
	Modified, Changed time.Time
	Target            string // of a symbolic link
	// Digest is the SHA-256 of the content; empty if it was not asked for, or cannot be had.
	Digest string
}

// Want is a path that OpExamine is about.
type Want struct {
	Path string
	// Size is that of the content that is to be digested: a file of another size is not. Negative: no digest.
	Size int64
}

// Walked is the result of OpChanges.
type Walked struct {
	// More says that there are more paths behind the last one.
	More bool
	// Skipped is how many directories were too deep to be looked into.
	Skipped int
}

// AppendChange appends an encoded change to b.
func AppendChange(b []byte, c Change) []byte {
	b = appendString(b, c.Path)
	b = appendBool(b, c.Gone)
	if c.Gone {
		return b
	}
	for _, v := range []uint64{uint64(c.Mode), uint64(c.Size), uint64(c.UID), uint64(c.GID)} {
		b = binary.AppendUvarint(b, v)
	}
	b = appendTime(appendTime(b, c.Modified), c.Changed)
	return appendString(appendString(b, c.Target), c.Digest)
}

// DecodeChange decodes a change. Its path is not judged.
func DecodeChange(payload []byte) (Change, error) {
	d := decoder{rest: payload}
	c := Change{Path: d.string(), Gone: d.bool()}
	if !c.Gone {
		c.Mode, c.Size = fs.FileMode(d.bounded(math.MaxUint32)), int64(d.bounded(math.MaxInt64))
		c.UID, c.GID = uint32(d.bounded(math.MaxUint32)), uint32(d.bounded(math.MaxUint32))
		c.Modified, c.Changed = d.time(), d.time()
		c.Target, c.Digest = d.string(), d.string()
		if n := len(c.Digest); n != 0 && n != DigestSize {
			d.fail("digest of another size")
		}
	}
	return c, d.end()
}

// Append appends the encoded result to b.
func (w Walked) Append(b []byte) []byte {
	return binary.AppendUvarint(appendBool(b, w.More), uint64(w.Skipped))
}

// DecodeWalked decodes the result of OpChanges.
func DecodeWalked(payload []byte) (Walked, error) {
	d := decoder{rest: payload}
	w := Walked{More: d.bool(), Skipped: int(d.bounded(math.MaxInt32))}
	return w, d.end()
}

func appendWants(b []byte, list []Want) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, w := range list {
		b = binary.AppendVarint(appendString(b, w.Path), max(w.Size, -1))
	}
	return b
}

func (d *decoder) wants() []Want {
	n := d.bounded(MaxWants)
	var list []Want
	for range n {
		w := Want{Path: d.string(), Size: d.int()}
		if w.Size < -1 {
			d.fail("size out of range")
		}
		if d.err != nil {
			return nil
		}
		list = append(list, w)
	}
	return list
}

// Changes lists up to limit paths that were written since the image was made, in the order of a walk, from behind the path
// after; empty is the beginning. What the guest sends is passed on as it comes, without a bound of its own: when each
// fails, it ends.
func (c *Client) Changes(ctx context.Context, after string, limit int, each func(Change) error) (Walked, error) {
	payload, err := c.do(ctx, Request{Op: OpChanges, Path: after, Size: int64(limit)}, &call{change: each})
	if err != nil {
		return Walked{}, err
	}
	return DecodeWalked(payload)
}

// Examine tells what is at each of the paths, at most MaxWants, in their order. As of Changes, the answers are passed on as
// they come.
func (c *Client) Examine(ctx context.Context, list []Want, each func(Change) error) error {
	_, err := c.do(ctx, Request{Op: OpExamine, Wants: list}, &call{change: each})
	return err
}

func (op *call) addChange(payload []byte) error {
	if op.change == nil {
		return fmt.Errorf("%w: change out of place", ErrProtocol)
	}
	c, err := DecodeChange(payload)
	if err != nil {
		return err
	}
	return op.change(c)
}

// ReadReply reads the frames with which a guest answers OpChanges or OpExamine from r, which has nothing else, and returns
// the payload of the last one.
func ReadReply(r io.Reader, each func(Change) error) ([]byte, error) {
	op, frames := call{change: each}, NewReader(r)
	for {
		f, err := frames.Next()
		if err != nil {
			return nil, err
		}
		switch f.Kind {
		case KindOutput: // a sign of life
		case KindChange:
			err = op.addChange(f.Payload)
		case KindDone:
			return f.Payload, nil
		case KindFail:
			failure, err := DecodeFailure(f.Payload)
			if err != nil {
				return nil, err
			}
			return nil, failure
		default:
			err = fmt.Errorf("%w: frame of kind %d in a reply", ErrProtocol, f.Kind)
		}
		if err != nil {
			return nil, err
		}
	}
}
