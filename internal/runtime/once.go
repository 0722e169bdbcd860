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
// failed is not remembered, and may be tried again, unless a program of it had begun and was cancelled or ended by
// a budget: then that is the answer.
type once struct {
	lasting *store // of what outlives the process
	living  *store // of what does not

	mu     sync.Mutex
	flight map[string]chan struct{} // calls in progress by scope and key; closed when done
}

func newOnce(lasting, living *store) *once {
	return &once{lasting: lasting, living: living, flight: map[string]chan struct{}{}}
}

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
	name, keep := c.s.tenant.ID+"\x00"+c.s.id+"\x00"+key, o.living
	if lasting { // the session may be another one when it is asked again
		name, keep = c.s.tenant.ID+"\x00\x00"+key, o.lasting
	}
	release, err := o.enter(ctx, name)
	if err != nil {
		return answer, err
	}
	defer release()
	had, ok, err := get[keyRecord](keep, bucketKeys, name)
	if err != nil {
		return answer, err
	}
	if ok && time.Since(had.Time) < keyLife {
		if had.Op != c.op || had.Request != digest {
			return answer, refuse(CodeConflict, c.op, "use a new key for a new request", "this idempotency key was used for another request (%s)", had.Op)
		}
		c.note("replayed", "true")
		if f := had.Failed; f != nil {
			return answer, &Error{Code: f.Code, Op: c.op, Sandbox: f.Sandbox, Budget: f.Budget,
				Cause: "the first call with this idempotency key ended so: " + f.Cause, Remedy: "use a new key to have it done again"}
		}
		if err := json.Unmarshal(had.Answer, &answer); err != nil {
			return answer, fmt.Errorf("read the former answer: %w", err)
		}
		return answer, nil
	}
	record := keyRecord{Op: c.op, Request: digest, Lasting: lasting}
	answer, failed := f()
	if failed != nil {
		failed = c.r.typed(c.op, c.sandbox, failed)
		if code := CodeOf(failed); !c.begun || code != CodeCancelled && code != CodeBudget {
			return answer, failed
		}
		record.Failed, _ = errors.AsType[*Error](failed)
	} else {
		record.Answer, err = json.Marshal(answer)
	}
	record.Time = time.Now().UTC().Round(0)
	if err == nil {
		err = keep.put(bucketKeys, name, record)
	}
	if err != nil {
		// What was asked for is done. To answer with an error would have it done again.
		c.r.log.Error("could not keep the answer to an idempotency key", "op", c.op, "error", err)
	}
	return answer, failed
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
	return errors.Join(o.lasting.purgeKeys(keep), o.living.purgeKeys(keep))
}

func (s *store) purgeKeys(keep func(keyRecord) bool) error {
	return s.update(func(tx *bbolt.Tx) error {
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
