package rest

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/aethervm/aether/internal/runtime"
)

// problemType is the content type of errors (RFC 9457).
const problemType = "application/problem+json"

// Problem is every error that the API answers with: the members of RFC 9457, and those of the runtime's errors.
type Problem struct {
	Type   string `json:"type" doc:"always about:blank: code tells problems apart"`
	Title  string `json:"title" doc:"the code in words"`
	Status int    `json:"status" doc:"the HTTP status"`
	Detail string `json:"detail" doc:"cause and remedy, for people"`

	Code    runtime.Code           `json:"code" doc:"the kind of the error, for programs"`
	Op      string                 `json:"op,omitempty" doc:"what was tried"`
	Sandbox string                 `json:"sandbox,omitempty"`
	Cause   string                 `json:"cause" doc:"what went wrong"`
	Remedy  string                 `json:"remedy,omitempty" doc:"the next step"`
	Budget  *runtime.BudgetRefusal `json:"budget,omitempty" doc:"with code budget: what is left, and when there is more"`
	Errors  []*huma.ErrorDetail    `json:"errors,omitempty" doc:"of a request that is not as described: where and why"`
}

// Error makes it an error for the library.
func (p *Problem) Error() string { return p.Detail }

// GetStatus is the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is that of problems.
func (p *Problem) ContentType(string) string { return problemType }

// GetHeaders says when a request that a budget refused may be tried again.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{"Cache-Control": {"no-store"}}
	if p.Budget != nil && p.Budget.More != nil {
		wait := max(1, int64(math.Ceil(time.Until(*p.Budget.More).Seconds())))
		h.Set("Retry-After", strconv.FormatInt(wait, 10))
	}
	return h
}

// statusCancelled is what servers log of a client that did not wait; nobody reads it.
const statusCancelled = 499

func statusOf(code runtime.Code) int {
	switch code {
	case runtime.CodeInvalid, runtime.CodeCannotRun:
		return http.StatusUnprocessableEntity
	case runtime.CodeUnauthenticated:
		return http.StatusUnauthorized
	case runtime.CodeDenied, runtime.CodePermission:
		return http.StatusForbidden
	case runtime.CodeNotFound:
		return http.StatusNotFound
	case runtime.CodeGone:
		return http.StatusGone
	case runtime.CodeConflict:
		return http.StatusConflict
	case runtime.CodeBudget:
		return http.StatusTooManyRequests
	case runtime.CodeUnsupported:
		return http.StatusNotImplemented
	case runtime.CodeUnavailable:
		return http.StatusServiceUnavailable
	case runtime.CodeNoSpace:
		return http.StatusInsufficientStorage
	case runtime.CodeCancelled:
		return statusCancelled
	}
	return http.StatusInternalServerError
}

// problem is any error as one.
func problem(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	if big, ok := errors.AsType[*http.MaxBytesError](err); ok {
		p := problem(refuse(runtime.CodeInvalid, "", "send less, or in parts", "the body has more than %d bytes", big.Limit))
		p.Status, p.Title = http.StatusRequestEntityTooLarge, http.StatusText(http.StatusRequestEntityTooLarge)
		return p
	}
	e, ok := errors.AsType[*runtime.Error](err)
	if !ok { // its text may have a path of the host
		e = &runtime.Error{Code: runtime.CodeInternal, Cause: "a fault of aether", Remedy: "look at its log"}
	}
	status := statusOf(e.Code)
	p := &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: e.Cause,
		Code: e.Code, Op: e.Op, Sandbox: e.Sandbox, Cause: e.Cause, Remedy: e.Remedy, Budget: e.Budget}
	if p.Title == "" {
		p.Title = string(e.Code)
	}
	if e.Remedy != "" {
		p.Detail += " (" + e.Remedy + ")"
	}
	return p
}

// unify makes the library's own errors problems too.
func unify(_ huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := &Problem{Type: "about:blank", Title: m.Title, Status: m.Status, Detail: m.Detail, Cause: m.Detail,
		Code: runtime.CodeInvalid, Remedy: "compare the request with /v1/openapi.json", Errors: m.Errors}
	if m.Status >= http.StatusInternalServerError {
		p.Code, p.Cause, p.Detail, p.Remedy, p.Errors = runtime.CodeInternal, "a fault of aether", "a fault of aether", "look at its log", nil
	}
	for _, d := range p.Errors {
		d.Value = nil // what the client sent may be long, or a secret
	}
	return p, nil
}

// write answers with the problem, where nothing was answered yet.
func (p *Problem) write(w http.ResponseWriter) {
	for name, values := range p.GetHeaders() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client may be gone
}
