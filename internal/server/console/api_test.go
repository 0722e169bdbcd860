package console

import (
	"net/http"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/access"
	"github.com/aethervm/aether/internal/server/rest"
)

func api(rt *runtime.Runtime) http.Handler {
	return rest.Handler(rest.Config{Version: "test", Guard: access.Guard{Runtime: rt, Views: true}})
}
