package rest

import (
	"context"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
)

// Check is the readiness of one part.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"` // what is wrong; for operators
}

// OpsConfig is what the operations listener shows. Both are required.
type OpsConfig struct {
	// Ready checks every part that requests need: each token, the store, the
	// audit log. It leaves when ctx ends.
	Ready   func(ctx context.Context) []Check
	Metrics http.Handler
}

// readyTimeout bounds one readiness check.
const readyTimeout = 5 * time.Second

// NewOps returns the handler of the operations listener: /healthz (the
// process serves), /readyz (each part by name; 503 while one of them does
// not do its part) and /metrics. It asks for no credentials: bind it where
// only operators and their tools come.
func NewOps(c OpsConfig) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		opsAnswer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
		defer cancel()
		out := struct {
			Ready  bool    `json:"ready"`
			Checks []Check `json:"checks"`
		}{Checks: c.Ready(ctx)}
		out.Ready = len(out.Checks) > 0
		for _, check := range out.Checks {
			out.Ready = out.Ready && check.OK
		}
		status := http.StatusOK
		if !out.Ready {
			status = http.StatusServiceUnavailable
		}
		opsAnswer(w, status, out)
	})
	mux.Handle("GET /metrics", c.Metrics)
	return mux
}

func opsAnswer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", typeJSON)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.MarshalWrite(w, v, written) // whoever asked is gone
}
