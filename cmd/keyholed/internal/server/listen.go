package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"keyhole/cmd/keyholed/internal/config"
	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/cmd/keyholed/internal/tlsfiles"
	"keyhole/gateway/rest"
)

// Bounds of a connection to the operations listener; package rest has those
// of the API.
const (
	opsReadTimeout  = 10 * time.Second
	opsWriteTimeout = time.Minute
	opsIdleTimeout  = 2 * time.Minute
	opsMaxHeader    = 16 << 10
)

// listeners are the API listener and the one for operations, which may be off.
type listeners struct {
	api, ops       net.Listener
	apiSrv, opsSrv *http.Server
	closing        atomic.Bool   // every answer asks to close its connection
	conns          atomic.Int64  // to the API that are open
	ended          chan struct{} // gets a value when one has closed
}

// listen opens both, or none.
func listen(ctx context.Context, c *config.Config) (*listeners, error) {
	api, err := open(ctx, "listen", c.Listen)
	if err != nil {
		return nil, err
	}
	l := &listeners{api: api, ended: make(chan struct{}, 1)}
	if c.Ops.Listen == "" {
		return l, nil
	}
	if l.ops, err = open(ctx, "ops.listen", c.Ops.Listen); err != nil {
		return nil, errors.Join(err, api.Close())
	}
	return l, nil
}

func open(ctx context.Context, key, addr string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, exit.With(exit.Listen, "stop what listens there (`ss -ltnp` shows it), or choose another address: "+key,
			fmt.Errorf("%s: %s is in use by another process", key, addr))
	case errors.Is(err, syscall.EACCES):
		return nil, exit.With(exit.Listen, "ports below 1024 need a privilege (AmbientCapabilities=CAP_NET_BIND_SERVICE); or choose another: "+key,
			fmt.Errorf("%s: no permission to listen on %s", key, addr))
	}
	return nil, exit.With(exit.Listen, "", fmt.Errorf("%s: listening on %s: %w", key, addr, err))
}

// handle makes the servers.
func (l *listeners) handle(files *tlsfiles.Files, api, ops http.Handler, log *slog.Logger) {
	l.apiSrv = rest.NewServer(l.hangUp(api), files.ServerConfig(), log)
	l.apiSrv.ConnState = l.count
	l.opsSrv = &http.Server{
		Handler: ops, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), ReadTimeout: opsReadTimeout,
		WriteTimeout: opsWriteTimeout, IdleTimeout: opsIdleTimeout, MaxHeaderBytes: opsMaxHeader,
	}
}

// serve starts both servers. What it returns yields an error if one of them
// ends by itself.
func (l *listeners) serve(log *slog.Logger) <-chan error {
	failed := make(chan error, 2)
	run := func(on net.Listener, serve func(net.Listener) error) {
		if err := serve(on); !errors.Is(err, http.ErrServerClosed) {
			log.Error("a listener failed", "addr", on.Addr(), "err", err)
			failed <- exit.With(exit.Listen, "", fmt.Errorf("serving on %s: %w", on.Addr(), err))
		}
	}
	go run(l.api, func(on net.Listener) error { return l.apiSrv.ServeTLS(on, "", "") })
	if l.ops != nil {
		go run(l.ops, l.opsSrv.Serve)
	}
	return failed
}

// announce says where requests are answered.
func (l *listeners) announce(o Options) error {
	api, ops := "https://"+reachable(l.api.Addr()), ""
	if l.ops != nil {
		ops = "http://" + reachable(l.ops.Addr())
		if a, err := netip.ParseAddrPort(l.ops.Addr().String()); err == nil && !a.Addr().IsLoopback() {
			o.Log.Warn("the operations listener is open to the network, without TLS or authentication", "addr", l.ops.Addr())
		}
	}
	o.Log.Info("serving", "api", api, "ops", ops)
	if o.Serving == nil {
		return nil
	}
	return o.Serving(api, ops)
}

// reachable returns host and port under which this machine reaches addr.
func reachable(addr net.Addr) string {
	a, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return addr.String()
	}
	if !a.Addr().IsUnspecified() {
		return a.String()
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return net.JoinHostPort(host, fmt.Sprint(a.Port()))
}

// hangUp hands requests on to next. While closing, the answers ask for the end
// of their connection: Connection: close, of which net/http makes a GOAWAY on
// HTTP/2.
func (l *listeners) hangUp(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if l.closing.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// count keeps how many connections there are.
func (l *listeners) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		l.conns.Add(1)
	case http.StateClosed, http.StateHijacked:
		l.conns.Add(-1)
		select {
		case l.ended <- struct{}{}:
		default:
		}
	case http.StateActive, http.StateIdle:
	}
}

// shutdown lets requests under way end within grace; what has not ended then
// is cut off. Before the listener closes, and with it connections that are
// idle, those in use have up to patience to be told: a request that is sent
// on a connection as it closes is lost. The operations listener goes last.
func (l *listeners) shutdown(patience, grace time.Duration, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	l.closing.Store(true)
	l.quiet(ctx, min(patience, grace/2))
	if err := l.apiSrv.Shutdown(ctx); err != nil {
		log.Warn("requests were cut off at the end of the grace", "err", errors.Join(err, l.apiSrv.Close()))
	}
	if l.ops == nil {
		return
	}
	last, cancelLast := context.WithTimeout(context.Background(), time.Second)
	defer cancelLast()
	if err := l.opsSrv.Shutdown(last); err != nil {
		log.Debug("the operations listener was cut off", "err", errors.Join(err, l.opsSrv.Close()))
	}
}

// quiet waits until no connection is open, or patience is at its end.
func (l *listeners) quiet(ctx context.Context, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for l.conns.Load() > 0 {
		select {
		case <-l.ended:
		case <-ctx.Done():
			return
		}
	}
}
