package rest

import (
	"bytes"
	"errors"
	"mime"
	"net/http"
	"strings"
	"sync"

	"keyhole/keys"
)

const (
	maxPooled = 512 << 10 // bytes of the largest buffer that is kept for the next request
	maxAhead  = 64 << 10  // that are taken for a body before it arrives
)

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func newBuffer() *bytes.Buffer { return buffers.Get().(*bytes.Buffer) }

// freeBuffer gives a buffer back. Bodies hold plaintexts: they do not stay.
func freeBuffer(b *bytes.Buffer) {
	clear(b.Bytes())
	if b.Cap() <= maxPooled {
		b.Reset()
		buffers.Put(b)
	}
}

// checkMedia refuses a body that is not declared as plain JSON.
func checkMedia(h http.Header) error {
	types := h["Content-Type"]
	if len(types) == 1 && types[0] == "application/json" && h["Content-Encoding"] == nil {
		return nil
	}
	if len(types) == 1 && h["Content-Encoding"] == nil {
		media, params, err := mime.ParseMediaType(types[0])
		charset, has := params["charset"]
		if err == nil && media == "application/json" && (!has || strings.EqualFold(charset, "utf-8")) {
			return nil
		}
	}
	return keys.Errorf(keys.ErrMediaType, "send the body as \"Content-Type: application/json\", not encoded otherwise")
}

// readBody reads a body of at most limit bytes into b. One that says that
// it is larger is refused before it is read.
func readBody(w http.ResponseWriter, r *http.Request, b *bytes.Buffer, limit int64) error {
	if r.ContentLength > limit {
		return tooLarge(limit)
	}
	// The length is a claim: memory is taken as bytes arrive.
	b.Grow(int(min(max(r.ContentLength, 0), maxAhead-bytes.MinRead)) + bytes.MinRead)
	_, err := b.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		return tooLarge(limit)
	}
	if err != nil {
		return keys.Errorf(keys.ErrMalformed, "the body broke off, or did not arrive in time")
	}
	return nil
}

func tooLarge(limit int64) error {
	return keys.Errorf(keys.ErrTooLarge, "the body has more than %d bytes", limit)
}
