package rest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	"keyhole/gateway/api"
)

// document is openapi.yaml, loaded once.
var document = sync.OnceValues(func() (*openapi3.T, error) {
	return openapi3.NewLoader().LoadFromData([]byte(api.OpenAPI()))
})

// spec finds the calls in it.
var spec = sync.OnceValues(func() (routers.Router, error) {
	openapi3filter.RegisterBodyDecoder("application/jwk-set+json", openapi3filter.JSONBodyDecoder)
	openapi3filter.RegisterBodyDecoder(api.ProblemType, openapi3filter.JSONBodyDecoder)
	openapi3filter.RegisterBodyDecoder(api.TypePEM, openapi3filter.FileBodyDecoder)
	doc, err := document()
	if err != nil {
		return nil, err
	}
	return legacy.NewRouter(doc)
})

// contract is a transport that checks every answer against openapi.yaml, and
// that no request was served that the contract does not allow.
type contract struct {
	t    testing.TB
	next http.RoundTripper
}

func (c *contract) RoundTrip(req *http.Request) (*http.Response, error) {
	var sent []byte
	if req.Body != nil {
		var err error
		if sent, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		again := req.Clone(req.Context())
		again.Body = io.NopCloser(bytes.NewReader(sent))
		req = again
	}
	res, err := c.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if res.Header.Get("Content-Type") == "text/event-stream" {
		c.check(req, sent, res, nil)
		if req.Method == http.MethodGet {
			res.Body = &checkedStream{ReadCloser: res.Body, t: c.t}
		}
		return res, nil
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	_ = res.Body.Close()
	res.Body = io.NopCloser(bytes.NewReader(body))
	c.check(req, sent, res, body)
	return res, nil
}

func (c *contract) check(req *http.Request, sent []byte, res *http.Response, body []byte) {
	c.t.Helper()
	fault := func(format string, args ...any) {
		c.t.Helper()
		c.t.Errorf("%s %s: %d %s: "+format, append([]any{req.Method, req.URL.Path, res.StatusCode, body}, args...)...)
	}
	if res.Header.Get("X-Content-Type-Options") != "nosniff" || len(res.Header.Get("X-Request-Id")) < 20 || res.Header.Get("Cache-Control") == "" {
		fault("headers %v", res.Header)
	}
	router, err := spec()
	if err != nil {
		fault("loading the contract: %v", err)
		return
	}
	lookup := req.Clone(req.Context())
	if lookup.Method == http.MethodHead {
		lookup.Method = http.MethodGet
	}
	lookup.URL.Scheme, lookup.URL.Host, lookup.Host = "", "", ""
	route, params, err := router.FindRoute(lookup)
	if err != nil || strings.HasSuffix(lookup.URL.Path, "/") { // this router lets the slash pass
		// Not in the contract: only a refusal goes back.
		if !slices.Contains([]int{400, 401, 404, 405, 429, 500, 503}, res.StatusCode) || req.Method != http.MethodHead && res.Header.Get("Content-Type") != api.ProblemType {
			fault("the contract does not have it (%v)", err)
		}
		if res.StatusCode == 405 && res.Header.Get("Allow") == "" {
			fault("no Allow")
		}
		return
	}
	lookup.Body = io.NopCloser(bytes.NewReader(sent))
	in := &openapi3filter.RequestValidationInput{Request: lookup, PathParams: params, Route: route, QueryParams: lookup.URL.Query(), Options: &openapi3filter.Options{
		AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true, MultiError: true,
	}}
	if err := openapi3filter.ValidateRequest(req.Context(), in); err != nil && res.StatusCode < 400 && !strings.HasSuffix(req.URL.Path, "/batch") {
		// The items of a batch are judged one by one: it is served all the same.
		fault("it was served, and the contract does not allow it: %v", err)
	}
	if res.Header.Get("Content-Type") == "text/event-stream" {
		options := *in.Options
		options.ExcludeResponseBody = true // a checkedStream looks at it
		in.Options = &options
	}
	out := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: res.StatusCode, Header: res.Header, Options: in.Options, Body: io.NopCloser(bytes.NewReader(body)),
	}
	if err := openapi3filter.ValidateResponse(req.Context(), out); err != nil && !errors.Is(err, io.EOF) {
		fault("%v", err)
	}
	if req.Method == http.MethodHead && len(body) != 0 {
		fault("HEAD has a body")
	}
}

// checkedStream checks an event stream against the contract as it passes:
// each block is a retry hint, a comment or one event with its three fields.
type checkedStream struct {
	io.ReadCloser
	t    testing.TB
	rest []byte // of a block that has not ended
}

func (c *checkedStream) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.rest = append(c.rest, p[:n]...)
	for {
		block, rest, whole := bytes.Cut(c.rest, []byte("\n\n"))
		if !whole {
			return n, err
		}
		c.rest = rest
		if fault := checkBlock(string(block)); fault != nil {
			c.t.Errorf("in the stream: %q: %v", block, fault)
		}
	}
}

func checkBlock(block string) error {
	lines := strings.Split(block, "\n")
	if len(lines) == 1 {
		if ms, ok := strings.CutPrefix(block, "retry: "); ok {
			_, err := strconv.ParseUint(ms, 10, 31)
			return err
		}
		if !strings.HasPrefix(block, ":") {
			return errors.New("neither a comment nor a hint")
		}
		return nil
	}
	var field [3]string
	for i, name := range []string{"id: ", "event: ", "data: "} {
		var ok bool
		if field[i], ok = strings.CutPrefix(lines[min(i, len(lines)-1)], name); !ok || len(lines) != 3 {
			return errors.New("not id, event and data")
		}
	}
	doc, err := document()
	if err != nil {
		return err
	}
	var data map[string]any
	dec := json.NewDecoder(strings.NewReader(field[2]))
	dec.UseNumber()
	if err := dec.Decode(&data); err != nil {
		return err
	}
	if fmt.Sprint(data["id"]) != field[0] || data["type"] != field[1] {
		return errors.New("the fields are not those of the data")
	}
	return doc.Components.Schemas["Event"].Value.VisitJSON(data)
}
