package client_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// Each code of the contract is the same sentinel on this side.
func TestRefusalsAreSentinels(t *testing.T) {
	t.Parallel()
	for code, status := range api.Codes() {
		s, ca := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, api.Problem{Status: status, Code: code, Title: "title", Detail: "say why", RequestID: "r-1"})
		})
		c := connect(t, s, ca, func(cfg *client.Config) { cfg.Retries = -1 })
		_, err := c.WhoAmI(t.Context())
		want := api.Problem{Code: code}.Err()
		var sentinel *keys.Error
		if !errors.As(want, &sentinel) || !errors.Is(err, sentinel.Kind) {
			t.Errorf("%s became %v", code, err)
		}
		var refused *client.Error
		if !errors.As(err, &refused) || refused.Problem.Code != code || refused.Problem.Status != status {
			t.Errorf("%s: the problem is %+v", code, refused)
		}
		if err != nil && (!strings.Contains(err.Error(), "say why") || !strings.Contains(err.Error(), "r-1") || !strings.Contains(err.Error(), code)) {
			t.Errorf("%s: the text is %q", code, err)
		}
		s.Close()
		c.Close()
	}
}

// Answers that no gateway gave: proxies, other services, broken JSON.
func TestForeignAnswers(t *testing.T) {
	t.Parallel()
	var elsewhere counter
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.next() }))
	t.Cleanup(other.Close)
	for _, tt := range []struct {
		name, media, body string
		status            int
		want              error
	}{
		{"bad gateway", "text/html", "<html>", 502, keys.ErrOverloaded},
		{"gateway timeout", "text/html", "<html>", 504, keys.ErrOverloaded},
		{"unavailable", "text/plain", "no", 503, keys.ErrOverloaded},
		{"too many", "", "", 429, keys.ErrRateLimited},
		{"a proxy's 401", "text/html", "<html>", 401, keys.ErrUnauthenticated},
		{"a proxy's 403", "text/html", "<html>", 403, keys.ErrForbidden},
		{"not found", "text/plain", "404", 404, keys.ErrNotFound},
		{"too large", "text/html", "", 413, keys.ErrTooLarge},
		{"server error", "text/html", "", 500, keys.ErrInternal},
		{"redirect", "", "", 307, keys.ErrInternal},
		{"permanent redirect", "", "", 308, keys.ErrInternal},
		{"not modified, unasked", "", "", 304, keys.ErrInternal},
		{"a problem without code", api.ProblemType, "{}", 404, keys.ErrNotFound},
		{"a broken problem", api.ProblemType, "{", 403, keys.ErrForbidden},
		{"a web page", "text/html", "<html>", 200, keys.ErrInternal},
		{"no media type", "", "{}", 200, keys.ErrInternal},
		{"broken JSON", "application/json", "{", 200, keys.ErrInternal},
		{"another shape", "application/json", `{"principal":7}`, 200, keys.ErrInternal},
	} {
		s, ca := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			if tt.media != "" {
				w.Header().Set("Content-Type", tt.media)
			}
			w.Header().Set("Location", other.URL)
			w.WriteHeader(tt.status)
			_, _ = io.WriteString(w, tt.body)
		})
		c := connect(t, s, ca, func(cfg *client.Config) { cfg.Retries = -1 })
		_, err := c.WhoAmI(t.Context())
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		var refused *client.Error
		if errors.As(err, &refused) && refused.Problem.Detail == "" {
			t.Errorf("%s: the error says nothing: %v", tt.name, err)
		}
		s.Close()
		c.Close()
	}
	if elsewhere.count() != 0 {
		t.Error("a redirect was followed")
	}
}

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	const bound = 1000
	size := 0
	s, ca := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"principal":"`+strings.Repeat("x", size-len(`{"principal":""}`))+`"}`)
	})
	c := connect(t, s, ca, func(cfg *client.Config) { cfg.MaxResponse = bound })
	for size = range map[int]bool{bound: true, bound + 1: false, 10 << 20: false} {
		_, err := c.WhoAmI(t.Context())
		if ok := size <= bound; ok != (err == nil) || !ok && !errors.Is(err, keys.ErrInternal) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestContextEnds(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{}, 10)
	s, ca := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	c := connect(t, s, ca)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if _, err := c.Sign(ctx, "payments", api.SignRequest{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := c.Sign(ctx, "payments", api.SignRequest{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := c.Sign(ctx, "payments", api.SignRequest{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the caller's deadline: %v", err)
	}

	// A source of tokens that waits, until the caller or the client gives up.
	waiting := func(cfg *client.Config) {
		cfg.Token = func(ctx context.Context) (string, error) { arrived <- struct{}{}; <-ctx.Done(); return "", ctx.Err() }
	}
	ctx, cancel = context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if _, err := connect(t, s, ca, waiting).WhoAmI(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, keys.ErrUnauthenticated) {
		t.Errorf("cancelled while waiting for a token: %v", err)
	}
	c = connect(t, s, ca, waiting, func(cfg *client.Config) { cfg.Timeout = time.Millisecond })
	if _, err := c.WhoAmI(t.Context()); !errors.Is(err, keys.ErrTimeout) {
		t.Errorf("timed out while waiting for a token: %v, want ErrTimeout", err)
	}

	c = connect(t, s, ca, func(cfg *client.Config) { cfg.Timeout = time.Millisecond })
	if _, err := c.Sign(t.Context(), "payments", api.SignRequest{}); !errors.Is(err, keys.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the client's timeout: %v, want ErrTimeout", err)
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeFile(t, dir+"/empty", nil)
	for _, tt := range []struct{ cfg, says string }{
		{"", "empty"}, {"https://", "no URL"}, {"keyhole.example:8443", "scheme is missing"}, {"127.0.0.1:8443", "scheme is missing"},
		{"keyhole.example", "scheme is missing"}, {"https:/keyhole.example", "scheme is missing"}, {"user:hunter2@keyhole.example", "scheme is missing"},
		{"http://keyhole.example", "use https"}, {"http://10.0.0.1:8443", "use https"}, {"http://127.0.0.1.evil.example", "use https"},
		{"ftp://keyhole.example", "scheme"}, {"https://user:hunter2@keyhole.example", "more than"}, {"https://h/?x=1", "more than"}, {"https://h/#x", "more than"},
		{"https://h\x7f/hunter2", "no URL"},
	} {
		_, err := client.New(client.Config{Address: tt.cfg})
		if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v, want %q", tt.cfg, err, tt.says)
		}
	}
	for _, good := range []string{"https://keyhole.example", "https://keyhole.example/prefix/", "http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"} {
		if _, err := client.New(client.Config{Address: good}); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for says, cfg := range map[string]client.Config{
		"reading the CA":         {CACertFile: dir + "/none"},
		"holds no PEM":           {CACertFile: dir + "/empty"},
		"both":                   {CertFile: dir + "/empty"},
		"needs both":             {KeyFile: dir + "/empty"},
		"the client certificate": {CertFile: dir + "/empty", KeyFile: dir + "/empty"},
	} {
		cfg.Address = "https://keyhole.example"
		if _, err := client.New(cfg); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v, want %q", cfg, err, says)
		}
	}
}
