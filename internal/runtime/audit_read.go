package runtime

import (
	"bytes"
	"context"
	"fmt"
	"slices"
)

const (
	// auditPage is how many entries Audit returns if it is not told, auditPageMax at most.
	auditPage    = 100
	auditPageMax = 1000
	// auditScan is how many bytes of the log one Audit looks through.
	auditScan = 8 << 20
)

// AuditQuery is what Audit takes.
type AuditQuery struct {
	// Cursor is the Next of the page before; 0 begins with the newest entry.
	Cursor int64 `json:"cursor,omitempty"`
	// Sandbox leaves all others out.
	Sandbox string `json:"sandbox,omitempty"`
	// Limit is how many entries are wanted, at most 1000; 0 means 100.
	Limit int `json:"limit,omitempty"`
}

// AuditPage is what Audit returns.
type AuditPage struct {
	// Entries are the newest first. There may be fewer than Limit, or none, though older ones follow: a call
	// looks through 8 MiB of the log.
	Entries []AuditEntry `json:"entries"`
	// Next is the Cursor of the page after; 0 says that there is none.
	Next int64 `json:"next,omitempty"`
}

// Audit reads the entries of one tenant, of all its sessions, from the audit log. The tenant needs CanRead. It is not
// an entry of the log itself.
func (r *Runtime) Audit(ctx context.Context, tenantID string, q AuditQuery) (page AuditPage, err error) {
	c := r.call("audit")
	c.tenant, c.quiet = tenantID, true
	defer c.end(&err)
	if c.refused != nil {
		return page, c.refused
	}
	t, err := r.tenant(c.op, tenantID)
	if err != nil {
		return page, err
	}
	if !slices.Contains(t.Capabilities, CanRead) {
		return page, refuse(CodeDenied, c.op, "use another token", "this tenant has no capability %q", CanRead)
	}
	if q.Limit < 0 || q.Limit > auditPageMax || q.Cursor < 0 {
		return page, refuse(CodeInvalid, c.op, fmt.Sprintf("ask for at most %d entries, from the cursor of a page", auditPageMax),
			"the limit is %d, the cursor %d", q.Limit, q.Cursor)
	}
	set(&q.Limit, auditPage)
	return r.audit.page(ctx, q, auditScan, tenantID, func(e *AuditEntry) bool {
		return e.Tenant == tenantID && (q.Sandbox == "" || e.Sandbox == q.Sandbox)
	})
}

// page reads backwards from a cursor, which is an offset in the file: whatever it is, what is read begins and
// ends at the end of a line. scan bounds the bytes that are looked through. Lines without mark are passed over unread.
func (a *auditLog) page(ctx context.Context, q AuditQuery, scan int64, mark string, want func(*AuditEntry) bool) (AuditPage, error) {
	page := AuditPage{Entries: []AuditEntry{}}
	if a == nil {
		return page, nil
	}
	a.mu.Lock() // nobody is in the middle of a line
	info, err := a.f.Stat()
	a.mu.Unlock()
	if err != nil {
		return page, fmt.Errorf("read the audit log: %w", err)
	}
	at := info.Size()
	if q.Cursor > 0 && q.Cursor < at {
		at = q.Cursor
	}
	stop := max(0, at-scan)
	// Lines are found from the end of chunk, which holds the file from begin to at.
	const step = 64 << 10
	begin, chunk := at, []byte{}
	for at > 0 {
		i := bytes.LastIndexByte(chunk[:max(0, len(chunk)-1)], '\n')
		if i < 0 && begin > 0 {
			if err := ctx.Err(); err != nil {
				return page, err
			}
			if len(chunk) > maxAuditLine {
				return page, fmt.Errorf("read the audit log: the line that ends at %d is longer than any entry", at)
			}
			from := max(0, begin-step)
			more := make([]byte, begin-from, int(begin-from)+len(chunk))
			if _, err := a.f.ReadAt(more, from); err != nil {
				return page, fmt.Errorf("read the audit log: %w", err)
			}
			begin, chunk = from, append(more, chunk...)
			continue
		}
		line, whole := bytes.CutSuffix(chunk[i+1:], []byte("\n"))
		if whole && bytes.Contains(line, []byte(mark)) { // if it is not whole, the cursor was in the middle of it
			e, err := decodeAudit(line)
			if err != nil {
				return page, fmt.Errorf("read the audit log: the line that ends at %d: %w", at, err)
			}
			if want(&e) {
				page.Entries = append(page.Entries, e)
			}
		}
		chunk = chunk[:i+1]
		at = begin + int64(i) + 1
		if at > 0 && (len(page.Entries) == q.Limit || at <= stop) {
			page.Next = at
			return page, nil
		}
	}
	return page, nil
}
