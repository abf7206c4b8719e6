package rest

import "net/http"

// CheckPath is checkPath.
func CheckPath(r *http.Request) error { return checkPath(r) }

// Route is a row of the route table.
type Route struct {
	Method, Template, Action string
	Public, Anonymous, Batch bool
	Once                     int
	Query                    []string
}

// Routes is the route table.
func Routes() []Route {
	var all []Route
	for _, e := range routes(nil) {
		all = append(all, Route{e.method, e.template, e.action, e.access == public, e.access == anonymous, e.batch, e.once, e.query})
	}
	return all
}
