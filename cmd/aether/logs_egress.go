package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/sandbox"
)

// egressEvery is how often a record that is followed is asked for.
const egressEvery = time.Second

// egressLog prints what a sandbox was refused, and what its secrets were used for.
func (a *app) egressLog(ctx context.Context, c *client.Client, id string, asJSON bool) error {
	log, err := c.EgressLog(ctx, id)
	switch {
	case err != nil:
		return err
	case asJSON:
		return a.printJSON(log)
	}
	return a.writeEgress(a.out, log)
}

// writeEgress writes a record as tables, and notes where there is nothing to be in one.
func (a *app) writeEgress(w io.Writer, log sandbox.EgressLog) error {
	refused := table{head: []string{"protocol", "destination", "refused", "first ago", "last ago"}, right: map[int]bool{2: true}}
	for _, f := range log.Refused {
		refused.add(f.Protocol, destination(f), strconv.FormatInt(f.Count, 10), age(f.First), age(f.Last))
	}
	uses := table{head: []string{"secret", "host", "method", "requests", "first ago", "last ago", "result"}, right: map[int]bool{3: true}}
	for _, u := range log.Credentials {
		uses.add(u.Secret, u.Host, u.Method, strconv.FormatInt(u.Count, 10), age(u.First), age(u.Last), useOutcome(u))
	}
	if len(refused.rows) == 0 && log.Omitted == 0 {
		a.notice("nothing was refused")
	}
	for i, t := range []table{refused, uses} {
		if len(t.rows) == 0 {
			continue
		}
		if i > 0 && len(refused.rows) > 0 {
			if _, err := io.WriteString(w, "\n"); err != nil {
				return err
			}
		}
		if err := t.write(w); err != nil {
			return err
		}
	}
	if log.Omitted > 0 {
		a.notice("%d more were refused, of destinations that are not kept", log.Omitted)
	}
	if log.CredentialsOmitted > 0 {
		a.notice("%d more requests had secrets, of kinds that are not kept", log.CredentialsOmitted)
	}
	return nil
}

func destination(f sandbox.RefusedFlow) string {
	if f.Address != "" {
		return f.Address
	}
	return f.Name
}

// useOutcome is what came of requests that were given a secret, or were not.
func useOutcome(u sandbox.CredentialUse) string {
	switch {
	case u.Refused != "":
		return "refused: " + u.Refused
	case u.Status == 0:
		return "no answer"
	}
	return strconv.Itoa(u.Status)
}

// egressEntry is an entry of a record that is followed; one of the two is there.
type egressEntry struct {
	Refused    *sandbox.RefusedFlow   `json:"refused,omitempty"`
	Credential *sandbox.CredentialUse `json:"credential,omitempty"`
}

// last is when the entry changed, and how often it has come.
func (e egressEntry) last() (time.Time, int64) {
	if e.Refused != nil {
		return e.Refused.Last, e.Refused.Count
	}
	return e.Credential.Last, e.Credential.Count
}

// key is what entries of one kind have in common.
func (e egressEntry) key() string {
	if f := e.Refused; f != nil {
		return fmt.Sprintf("%q", []string{f.Protocol, f.Address, f.Name})
	}
	u := e.Credential
	return fmt.Sprintf("%q %d", []string{u.Secret, u.Host, u.Method, u.Refused}, u.Status)
}

func (e egressEntry) String() string {
	at, n := e.last()
	text := ""
	if f := e.Refused; f != nil {
		text = fmt.Sprintf("refused %s %s", f.Protocol, destination(*f))
	} else {
		u := e.Credential
		text = fmt.Sprintf("secret %s: %s %s: %s", u.Secret, u.Method, u.Host, useOutcome(*u))
	}
	if n > 1 {
		text += fmt.Sprintf(" (%d times)", n)
	}
	return at.Local().Format(time.TimeOnly) + " " + oneLine(text) // the guest's words are in it
}

// news are the entries that seen does not have as they are now, in the order of their last times. It updates seen.
func news(log sandbox.EgressLog, seen map[string]egressEntry) (list []egressEntry) {
	all := make([]egressEntry, 0, len(log.Refused)+len(log.Credentials))
	for i := range log.Refused {
		all = append(all, egressEntry{Refused: &log.Refused[i]})
	}
	for i := range log.Credentials {
		all = append(all, egressEntry{Credential: &log.Credentials[i]})
	}
	kept := make(map[string]egressEntry, len(all))
	for _, e := range all {
		key := e.key()
		kept[key] = e
		if old, ok := seen[key]; ok {
			at, n := old.last()
			if now, m := e.last(); now.Equal(at) && m == n {
				continue
			}
		}
		list = append(list, e)
	}
	clear(seen) // what the record has dropped is not needed any more
	for key, e := range kept {
		seen[key] = e
	}
	slices.SortStableFunc(list, func(a, b egressEntry) int {
		x, _ := a.last()
		y, _ := b.last()
		return x.Compare(y)
	})
	return list
}

// followEgress prints a record's entries, each again when it changes, until the sandbox is gone. To look keeps that from
// nothing.
func (a *app) followEgress(ctx context.Context, c *client.Client, id string, asJSON bool) error {
	seen := map[string]egressEntry{}
	encoder := json.NewEncoder(a.out)
	encoder.SetEscapeHTML(false)
	tick := time.NewTicker(egressEvery)
	defer tick.Stop()
	for first := true; ; first = false {
		log, err := c.EgressLog(ctx, id)
		switch code := runtime.CodeOf(err); {
		case !first && (code == runtime.CodeGone || code == runtime.CodeNotFound):
			return nil
		case err != nil:
			return err
		}
		for _, e := range news(log, seen) {
			if asJSON {
				err = encoder.Encode(e)
			} else {
				err = a.printf("%s\n", e)
			}
			if err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// tellEgress says what a sandbox was refused when its program has ended, however that was.
func (a *app) tellEgress(ctx context.Context, s *runtime.Session, id string) {
	log, err := s.EgressLog(ctx, id)
	if err == nil {
		err = a.writeEgress(a.err, log)
	}
	if e, ok := errors.AsType[*runtime.Error](err); ok {
		a.notice("no record of the network: %s", e.Cause)
	}
}
