package rest

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"time"
)

// Bounds of connections. A handshake and a header have headerTimeout to
// arrive, a body readTimeout; a header as large as maxHeader holds any token
// that authentication would look at. An answer may take writeTimeout to be
// made, because making an RSA key on a slow token takes long; how long its
// reader may take for it is up to each answer.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 30 * time.Second
	writeTimeout  = 3 * time.Minute
	idleTimeout   = 2 * time.Minute
	maxHeader     = 32 << 10
	restTimeout   = 2 * time.Second // for the body of a request that was refused unread
	slowest       = 256 << 10       // bytes per second that a reader of an answer must take
)

// http2 bounds an HTTP/2 connection. What it does not have a field for,
// net/http bounds by itself: the frames of one header, resets and other control
// frames that wait, and streams that were reset while their handlers run.
func http2() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          128,
		MaxDecoderHeaderTableSize:     4 << 10,
		MaxEncoderHeaderTableSize:     4 << 10,
		MaxReadFrameSize:              64 << 10,
		MaxReceiveBufferPerConnection: 1 << 20,
		MaxReceiveBufferPerStream:     256 << 10,
		// A peer that died silently is noticed, and its requests are given up.
		SendPingTimeout: 30 * time.Second,
		PingTimeout:     15 * time.Second,
		// One that takes nothing more is closed.
		WriteByteTimeout: 30 * time.Second,
	}
}

// NewServer returns a server for the API with the time and size limits that
// net/http lacks by default. tlsConfig may be nil where tests have their own.
func NewServer(h http.Handler, tlsConfig *tls.Config, log *slog.Logger) *http.Server {
	if log == nil {
		log = slog.Default()
	}
	return &http.Server{
		Handler: h, TLSConfig: tlsConfig, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes:               maxHeader,
		HTTP2:                        http2(),
		DisableGeneralOptionsHandler: true, // OPTIONS * is authenticated like everything else
	}
}
