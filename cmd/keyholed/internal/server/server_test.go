package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"keyhole/audit"
	"keyhole/cmd/keyholed/internal/config"
	"keyhole/cmd/keyholed/internal/core"
	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/hsm"
	"keyhole/keys"
)

func TestWatchStuck(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		token config.Token
		stuck int
		ends  bool
	}{
		{"below the limit", config.Token{MaxStuck: 3, ExitWhenStuck: true}, 2, false},
		{"at the limit", config.Token{MaxStuck: 3, ExitWhenStuck: true}, 3, true},
		{"half of the sessions", config.Token{Sessions: 8, ExitWhenStuck: true}, 4, true},
		{"less than half", config.Token{Sessions: 8, ExitWhenStuck: true}, 3, false},
		{"one session", config.Token{Sessions: 1, ExitWhenStuck: true}, 1, true},
		{"not asked for", config.Token{MaxStuck: 3}, 99, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				tt.token.Name = "main"
				err := watchStuck(ctx, []config.Token{tt.token}, func() []hsm.TokenHealth {
					return []hsm.TokenHealth{{Name: "other", Stuck: 99}, {Name: "main", Stuck: tt.stuck}}
				})
				if errors.Is(err, keys.ErrHSM) != tt.ends || (ctx.Err() != nil) == tt.ends {
					t.Errorf("error is %v after %v", err, ctx.Err())
				}
			})
		})
	}
}

// Each kind of error has its status, however deep it is wrapped.
func TestStatuses(t *testing.T) {
	t.Parallel()
	wrapped := func(err error) error { return fmt.Errorf("token %q: %w", "main", err) }
	for _, tt := range []struct {
		name string
		err  error
		want int
		hint bool
	}{
		{"PIN", core.HSMError(wrapped(hsm.ErrPIN)), exit.PIN, true},
		{"module", core.HSMError(wrapped(hsm.ErrNoModule)), exit.HSM, true},
		{"token", core.HSMError(wrapped(hsm.ErrNoToken)), exit.HSM, true},
		{"initialised", core.HSMError(wrapped(hsm.ErrNotInitialised)), exit.HSM, true},
		{"device", core.HSMError(wrapped(keys.ErrHSM)), exit.HSM, false},
		{"audit in use", core.AuditError(wrapped(audit.ErrInUse)), exit.Audit, true},
		{"audit", core.AuditError(wrapped(keys.ErrAudit)), exit.Audit, true},
		{"store", core.StoreError(wrapped(keys.ErrStore)), exit.Store, false},
		{"joined", errors.Join(errors.New("other"), core.StoreError(keys.ErrStore)), exit.Store, false},
		{"none", errors.Join(core.HSMError(nil), core.AuditError(nil), core.StoreError(nil)), exit.OK, false},
		{"unknown", errors.New("other"), exit.Failure, false},
	} {
		if got := exit.Status(tt.err); got != tt.want || (exit.Hint(tt.err) != "") != tt.hint {
			t.Errorf("%s: status %d, hint %q; want %d", tt.name, got, exit.Hint(tt.err), tt.want)
		}
	}
}

func TestReachable(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{"127.0.0.1:8443": "127.0.0.1:8443", "[::1]:8443": "[::1]:8443", "192.0.2.1:1": "192.0.2.1:1"} {
		tcp, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := reachable(tcp); got != want {
			t.Errorf("reachable(%s) = %s, want %s", addr, got, want)
		}
	}
	host, port, err := net.SplitHostPort(reachable(&net.TCPAddr{IP: net.IPv6unspecified, Port: 8443}))
	if err != nil || port != "8443" || host == "" || net.ParseIP(host) != nil && net.ParseIP(host).IsUnspecified() {
		t.Errorf("all interfaces are reachable as %q, port %q, %v", host, port, err)
	}
}
