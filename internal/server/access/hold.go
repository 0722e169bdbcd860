package access

import (
	"net/http"
	"time"
)

// patience is how long a request that nobody has let through yet may take to send its body.
const patience = 15 * time.Second

// Hurry bounds how long whoever has no token can hold a connection: a request must be sent in 15 seconds and its answer
// taken in twice that, unless Require lets it through.
func Hurry(next http.Handler) http.Handler { return hurry(next, patience) }

func hurry(next http.Handler, limit time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc, end := http.NewResponseController(w), time.Now().Add(limit)
		if r.ContentLength != 0 {
			_ = rc.SetReadDeadline(end) // where there is none, as in a test, nobody waits
		}
		_ = rc.SetWriteDeadline(end.Add(limit)) // what cannot be read is answered, too. It stays until the next request, which sets its own
		next.ServeHTTP(w, r)
	})
}

// unhurried lifts the bounds of Hurry.
func unhurried(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	if r.ContentLength != 0 {
		_ = rc.SetReadDeadline(time.Time{})
	}
	_ = rc.SetWriteDeadline(time.Time{})
}
