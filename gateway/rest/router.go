package rest

import (
	"errors"
	"net/http"
	"strings"

	"github.com/gorilla/mux"
	lru "github.com/hashicorp/golang-lru/v2"

	"keyhole/keys"
)

// endpoint is one row of the route table.
type endpoint struct {
	method   string // GET endpoints answer HEAD too
	template string // as in openapi.yaml
	action   string // in the record of a request that was refused
	access   access
	batch    bool
	stream   bool
	once     int      // status of a success whose request may carry an Idempotency-Key; 0: it may not
	query    []string // names of the query parameters
	repeated string   // the one of them that may come several times; "": none
	serve    func(*call) error
}

// access says who gets as far as an endpoint.
type access int

const (
	authenticated access = iota
	anonymous            // without credentials too: the policy decides
	public               // everybody; nothing is authenticated or recorded
)

// Patterns of the path parameters.
var patterns = strings.NewReplacer(
	"{key}", "{key:[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?}",
	"{version}", "{version:[1-9][0-9]{0,9}}",
	"{seq}", "{seq:0|[1-9][0-9]{0,18}}",
	"{id}", "{id:[0-9A-Za-z]{1,64}}",
	"{name}", "{name:[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?}", // of what is configured
)

// maxPath is longer than any path that there is, in bytes.
const maxPath = 256

// methods are what Allow is made of.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// router finds the endpoint of a request. It remembers what it found last:
// agents ask for the same few paths all day.
type router struct {
	mux       *mux.Router
	endpoints map[*mux.Route]*endpoint
	recent    *lru.Cache[place, destination]
}

type place struct{ method, path string }

// destination is immutable.
type destination struct {
	endpoint *endpoint
	vars     map[string]string
}

const maxRecent = 1024

func newRouter(table []endpoint) router {
	r := router{mux: mux.NewRouter().SkipClean(true), endpoints: make(map[*mux.Route]*endpoint, len(table))}
	r.recent, _ = lru.New[place, destination](maxRecent) // fails for sizes below one only
	for i := range table {
		e := &table[i]
		allowed := []string{e.method}
		if e.method == http.MethodGet {
			allowed = append(allowed, http.MethodHead)
		}
		r.endpoints[r.mux.Path(patterns.Replace(e.template)).Methods(allowed...)] = e
	}
	return r
}

// find returns the endpoint and its path parameters, which are shared. Errors:
// keys.ErrMalformed, ErrNotFound, ErrMethod.
func (r router) find(req *http.Request) (*endpoint, map[string]string, error) {
	if err := checkPath(req); err != nil {
		return nil, nil, err
	}
	at := place{req.Method, req.URL.Path}
	if to, ok := r.recent.Get(at); ok {
		return to.endpoint, to.vars, nil
	}
	var m mux.RouteMatch
	switch {
	case r.mux.Match(req, &m):
		to := destination{r.endpoints[m.Route], m.Vars}
		r.remember(at, to)
		return to.endpoint, to.vars, nil
	case errors.Is(m.MatchErr, mux.ErrMethodMismatch):
		return nil, nil, keys.Errorf(keys.ErrMethod, "this path has other methods: %s", r.allowed(req))
	}
	return nil, nil, keys.Errorf(keys.ErrNotFound, "there is nothing at this path; /v1/openapi.yaml says what there is")
}

// remember keeps copies: the strings are parts of a request, which may be
// large.
func (r router) remember(at place, to destination) {
	vars := make(map[string]string, len(to.vars))
	for name, value := range to.vars {
		vars[name] = strings.Clone(value)
	}
	r.recent.Add(place{strings.Clone(at.method), strings.Clone(at.path)}, destination{to.endpoint, vars})
}

// allowed lists the methods that a path has.
func (r router) allowed(req *http.Request) string {
	var all []string
	for _, method := range methods {
		probe := &http.Request{Method: method, URL: req.URL, Host: req.Host}
		if r.mux.Match(probe, &mux.RouteMatch{}) {
			all = append(all, method)
		}
	}
	return strings.Join(all, ", ")
}

// checkPath refuses what could be read in more than one way. No path of the
// API needs an escape, so that one means a name that cannot exist, or an
// attempt to look like another path to something in between.
func checkPath(req *http.Request) error {
	path := req.URL.Path
	bad := len(path) > maxPath || req.URL.RawPath != "" || !strings.HasPrefix(path, "/")
	start := 1 // of the segment
	for i := 0; i <= len(path) && !bad; i++ {
		if i == len(path) || path[i] == '/' {
			if i >= start {
				segment := path[start:i]
				bad = segment == "." || segment == ".." || segment == "" && i < len(path)
			}
			start = i + 1
			continue
		}
		bad = path[i] <= ' ' || path[i] > '~' || path[i] == '%' || path[i] == '\\'
	}
	if bad {
		return keys.Errorf(keys.ErrMalformed, "the path must be plain: no escapes or odd characters, no empty, \".\" or \"..\" segments, at most %d bytes", maxPath)
	}
	return nil
}
