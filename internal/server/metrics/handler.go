package metrics

import (
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/access"
)

// Config is what Handler needs.
type Config struct {
	Version string
	Runtime *runtime.Runtime
	// Token is the operator's; a request must bear it. It is no tenant's. Without one, all are refused.
	Token string
	// NoAuth asks for no token. The server then listens where only this host's users get; a request must name it as
	// such, so that a page whose name was made to lead here reads nothing.
	NoAuth bool
	Log    *slog.Logger
}

// Handler serves the metrics to GET, and has the runtime's operations counted from now on. Call it once for a runtime.
func Handler(cfg Config) http.Handler {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	show := promhttp.HandlerFor(registry(cfg.Runtime, cfg.Version), promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelError),
		MaxRequestsInFlight: 4,
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		case cfg.NoAuth && !access.Local(r):
			http.Error(w, "name the host as localhost or by its loopback address", http.StatusForbidden)
		case !cfg.NoAuth && !cfg.bears(r):
			w.Header().Set("WWW-Authenticate", `Bearer realm="aether metrics"`)
			http.Error(w, "send the operator's token: Authorization: Bearer TOKEN", http.StatusUnauthorized)
		default:
			show.ServeHTTP(w, r)
		}
	})
}

// bears tells whether the request has the operator's token. What is compared are digests, in constant time.
func (cfg Config) bears(r *http.Request) bool {
	got, want := sha256.Sum256([]byte(access.Bearer(r))), sha256.Sum256([]byte(cfg.Token))
	return cfg.Token != "" && subtle.ConstantTimeCompare(got[:], want[:]) == 1
}
