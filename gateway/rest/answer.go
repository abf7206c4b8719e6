package rest

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/keys"
)

const (
	typeJSON = "application/json"
	typeJWKS = "application/jwk-set+json"
	typeYAML = "application/yaml"
)

// written is how answers are encoded: the same value always alike, and text
// from elsewhere (a certificate's name) never stops an answer.
var written = json.JoinOptions(json.Deterministic(true), jsontext.AllowInvalidUTF8(true))

// answer sends v as the whole answer.
func (c *call) answer(status int, v any) error {
	b := newBuffer()
	defer freeBuffer(b)
	if err := json.MarshalWrite(b, v, written); err != nil {
		return errors.Join(keys.ErrInternal, err)
	}
	c.write(status, typeJSON, b.Bytes())
	return nil
}

// conditional sends v, or 304 where the caller has it already.
func (c *call) conditional(media, cacheControl string, v any) error {
	b := newBuffer()
	defer freeBuffer(b)
	if err := json.MarshalWrite(b, v, written); err != nil {
		return errors.Join(keys.ErrInternal, err)
	}
	c.validated(media, cacheControl, etag(b.Bytes()), b.Bytes())
	return nil
}

func (c *call) validated(media, cacheControl, tag string, body []byte) {
	header := c.w.Header()
	header["Etag"] = []string{tag}
	header["Cache-Control"] = []string{cacheControl}
	if matches(c.r.Header["If-None-Match"], tag) {
		c.status = http.StatusNotModified
		c.w.WriteHeader(http.StatusNotModified)
		return
	}
	c.write(http.StatusOK, media, body)
}

// etag is a strong validator: what is the same to the byte has the same.
func etag(body []byte) string {
	sum := sha256.Sum256(body)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`
}

// matches evaluates If-None-Match (RFC 9110, 13.1.2), which compares weakly.
func matches(values []string, tag string) bool {
	for _, value := range values {
		for candidate := range strings.SplitSeq(value, ",") {
			candidate = strings.TrimPrefix(strings.TrimSpace(candidate), "W/")
			if candidate == tag || candidate == "*" {
				return true
			}
		}
	}
	return false
}

func (c *call) write(status int, media string, body []byte) {
	header := c.w.Header()
	header["Content-Type"] = []string{media}
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	c.status = status
	c.hurry(len(body))
	c.w.WriteHeader(status)
	c.size, _ = c.w.Write(body) // a caller that is gone has been recorded all the same
}

// hurry has the caller take an answer in time: while it is being sent, the
// request keeps its places. net/http reads what is left of a body before it
// sends an answer; whoever is refused has little time for that.
func (c *call) hurry(size int) {
	now, conn := time.Now(), http.NewResponseController(c.w)
	allowed := c.h.cfg.StreamWrite + time.Duration(size)*time.Second/slowest
	// Errors mean that nothing is sent over a network.
	if c.r.ContentLength != 0 && !c.bodyRead {
		_ = conn.SetReadDeadline(now.Add(restTimeout))
		allowed += restTimeout
	}
	_ = conn.SetWriteDeadline(now.Add(allowed))
}

// problem sends an error (RFC 9457).
func (c *call) problem(err error) {
	p := api.ProblemOf(err)
	p.RequestID = c.id
	header := c.w.Header()
	header["Cache-Control"] = noStore
	switch p.Status {
	case http.StatusUnauthorized:
		challenge := `Bearer realm="keyhole"`
		if c.sentToken {
			challenge += `, error="invalid_token"`
		}
		header["Www-Authenticate"] = []string{challenge}
	case http.StatusMethodNotAllowed:
		header["Allow"] = []string{c.h.router.allowed(c.r)}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		header["Retry-After"] = []string{strconv.Itoa(retryAfter(err))}
	}
	c.logProblem(&p, err)
	b := newBuffer()
	defer freeBuffer(b)
	if json.MarshalWrite(b, &p, written) != nil {
		p.Status = http.StatusInternalServerError // strings and a number: cannot happen
	}
	c.write(p.Status, api.ProblemType, b.Bytes())
}

// logProblem logs what is not the caller's fault. Of requests that are refused
// because there are too many, one a second is logged: the others would only
// add to the load.
func (c *call) logProblem(p *api.Problem, err error) {
	attrs := []any{"request_id", c.id, "route", c.route(), "code", p.Code, "err", err}
	switch {
	case p.Status < http.StatusInternalServerError:
	case p.Status == http.StatusInternalServerError:
		c.h.cfg.Log.ErrorContext(c.ctx, "request failed", attrs...)
	case errors.Is(err, keys.ErrOverloaded):
		if others, speak := c.h.overload.speak(time.Now()); speak {
			c.h.cfg.Log.WarnContext(c.ctx, "request refused", append(attrs, "not_logged", others)...)
		}
	default:
		c.h.cfg.Log.WarnContext(c.ctx, "request failed", attrs...)
	}
}

// retryAfter is in seconds, rounded up: what the limiter or the error says,
// else the least.
func retryAfter(err error) int {
	var after time.Duration
	if limited, ok := errors.AsType[*authz.RateLimited](err); ok {
		after = limited.RetryAfter
	} else if detailed, ok := errors.AsType[*keys.Error](err); ok {
		after = detailed.RetryAfter
	}
	return max(1, int((after+time.Second-1)/time.Second))
}
