package runtime

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

const (
	// maxKey bounds an idempotency key.
	maxKey = 256
	// keyLife is how long the answer to a key is kept.
	keyLife = 24 * time.Hour
)

// once answers a call that has an idempotency key the second time as it did the first. A call that
// failed is not remembered: it may be tried again.
type once struct {
	store *store

	mu     sync.Mutex
	flight map[string]chan struct{} // calls in progress by scope and key; closed when done
}

func newOnce(s *store) *once { return &once{store: s, flight: map[string]chan struct{}{}} }

// do calls f, or answers as the first call of that key did. req is what the caller asked for: the
// same key with another request is a conflict. lasting tells that what f makes outlives the process.
func do[T any](ctx context.Context, c *call, key string, req any, lasting bool, f func() (T, error)) (answer T, err error) {
	if key == "" {
		return f()
	}
	if len(key) > maxKey {
		return answer, refuse(CodeInvalid, c.op, fmt.Sprintf("use at most %d bytes", maxKey), "the idempotency key has %d bytes", len(key))
	}
	raw, err := json.Marshal(req)
	if err != nil {
		return answer, fmt.Errorf("encode the request: %w", err)
	}
	sum := sha256.Sum256(raw)
	digest := hex.EncodeToString(sum[:])
	o := c.r.once
	name := c.s.tenant.ID + "\x00" + c.s.id + "\x00" + key
	if lasting { // the session may be another one when it is asked again
		name = c.s.tenant.ID + "\x00\x00" + key
	}
	release, err := o.enter(ctx, name)
	if err != nil {
		return answer, err
	}
	defer release()
	had, ok, err := get[keyRecord](o.store, bucketKeys, name)
	if err != nil {
		return answer, err
	}
	if ok && time.Since(had.Time) < keyLife {
		if had.Op != c.op || had.Request != digest {
			return answer, refuse(CodeConflict, c.op, "use a new key for a new request", "this idempotency key was used for another request (%s)", had.Op)
		}
		c.note("replayed", "true")
		if err := json.Unmarshal(had.Answer, &answer); err != nil {
			return answer, fmt.Errorf("read the former answer: %w", err)
		}
		return answer, nil
	}
	if answer, err = f(); err != nil {
		return answer, err
	}
	out, err := json.Marshal(answer)
	if err == nil {
		err = o.store.put(bucketKeys, name, keyRecord{Op: c.op, Request: digest, Answer: out, Lasting: lasting, Time: time.Now().UTC().Round(0)})
	}
	if err != nil {
		// What was asked for is done. To answer with an error would have it done again.
		c.r.log.Error("could not keep the answer to an idempotency key", "op", c.op, "error", err)
	}
	return answer, nil
}

// enter waits until no other call with the key is in progress.
func (o *once) enter(ctx context.Context, name string) (release func(), err error) {
	for {
		o.mu.Lock()
		busy := o.flight[name]
		if busy == nil {
			mine := make(chan struct{})
			o.flight[name] = mine
			o.mu.Unlock()
			return func() {
				o.mu.Lock()
				delete(o.flight, name)
				o.mu.Unlock()
				close(mine)
			}, nil
		}
		o.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// recover forgets the keys of what has not outlived the former process, so that a call that is tried
// again makes it anew.
func (o *once) recover() error {
	return o.purge(func(k keyRecord) bool { return k.Lasting && time.Since(k.Time) < keyLife })
}

// expire forgets keys that are too old.
func (o *once) expire() error {
	return o.purge(func(k keyRecord) bool { return time.Since(k.Time) < keyLife })
}

// purge looks and removes in one transaction, so that no answer is lost that has just been renewed.
func (o *once) purge(keep func(keyRecord) bool) error {
	return o.store.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucketKeys))
		var drop [][]byte
		err := b.ForEach(func(name, raw []byte) error {
			if k, err := decode[keyRecord](string(name), raw); err != nil || !keep(k) {
				drop = append(drop, name)
			}
			return nil
		})
		for _, name := range drop {
			err = errors.Join(err, b.Delete(name))
		}
		return err
	})
}
