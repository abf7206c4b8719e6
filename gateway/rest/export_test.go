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
	Repeated                 string // one of Query
}

// Routes is the route table.
func Routes() []Route {
	var all []Route
	for _, e := range routes(nil) {
		all = append(all, Route{e.method, e.template, e.action, e.access == public, e.access == anonymous, e.batch, e.once, e.query, e.repeated})
	}
	return all
}

// Followed and Resumed read what a stream is asked for by.
func Followed(values []string) ([]string, error)                   { return followed(values) }
func Resumed(header, query []string) (id uint64, ok bool, _ error) { return resumed(header, query) }

// PrefersReceipt reads a Prefer header.
func PrefersReceipt(values []string) bool { return prefersReceipt(values) }
