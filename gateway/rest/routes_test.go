package rest_test

import (
	"bytes"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"keyhole/audit"
	"keyhole/gateway/api"
	"keyhole/gateway/rest"
)

// The route table and the contract have the same calls, with the same query
// parameters, headers and statuses.
func TestRoutesAreTheContract(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromData([]byte(api.OpenAPI()))
	must(t, err)
	seen := map[string]bool{}
	for _, r := range rest.Routes() {
		seen[r.Method+" "+r.Template] = true
		item := doc.Paths.Value(r.Template)
		if item == nil || item.GetOperation(r.Method) == nil {
			t.Errorf("%s %s is not in the contract", r.Method, r.Template)
			continue
		}
		op := item.GetOperation(r.Method)
		var query []string
		conditional, once := false, false
		for _, p := range op.Parameters {
			switch {
			case p.Value.In == "query":
				query = append(query, p.Value.Name)
				if p.Value.Schema.Value.Type.Is("array") != (p.Value.Name == r.Repeated) {
					t.Errorf("%s %s: %s may be repeated: %v", r.Method, r.Template, p.Value.Name, p.Value.Name == r.Repeated)
				}
			case p.Value.Name == "If-None-Match":
				conditional = true
			case p.Value.Name == "Idempotency-Key":
				once = true
			}
		}
		slices.Sort(query)
		if want := slices.Sorted(slices.Values(r.Query)); !slices.Equal(query, want) {
			t.Errorf("%s %s: query %v, want %v", r.Method, r.Template, query, want)
		}
		if once != (r.Once != 0) || r.Once != 0 && op.Responses.Status(r.Once) == nil {
			t.Errorf("%s %s: Idempotency-Key %v, status %d", r.Method, r.Template, once, r.Once)
		}
		if conditional != (op.Responses.Status(304) != nil) {
			t.Errorf("%s %s: If-None-Match %v", r.Method, r.Template, conditional)
		}
		if (op.RequestBody != nil) != (r.Method != http.MethodGet && r.Method != http.MethodDelete) {
			t.Errorf("%s %s: body %v", r.Method, r.Template, op.RequestBody != nil)
		}
		if open := op.Security != nil && len(*op.Security) == 0; open != r.Public {
			t.Errorf("%s %s: open to all %v, want %v", r.Method, r.Template, open, r.Public)
		}
	}
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			if !seen[method+" "+path] {
				t.Errorf("%s %s is in the contract only", method, path)
			}
		}
	}
}

func fill(template string) string {
	return strings.NewReplacer("{key}", "payments", "{version}", "1", "{id}", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "{name}", "alarm", "{seq}", "0").Replace(template)
}

// Every path answers 401 without credentials, whatever the method, and what
// does not exist too.
func TestEverythingIsAuthenticated(t *testing.T) {
	t.Parallel()
	s := start(t)
	nobody := s.nobody(t)
	for _, r := range rest.Routes() {
		if r.Public {
			continue
		}
		for _, method := range []string{r.Method, "PUT", "OPTIONS", "BREW"} {
			res := nobody.do(method, fill(r.Template), strings.NewReader("{}"))
			if r.Anonymous && method == r.Method {
				res = nobody.get(fill(r.Template))
			}
			res.refused(401, "unauthenticated")
			if got := res.header.Get("WWW-Authenticate"); got != `Bearer realm="keyhole"` {
				t.Errorf("the challenge is %q", got)
			}
			recs := s.recorded(t, res)
			if len(recs) != 1 || recs[0].Action != "authenticate" || recs[0].Outcome != audit.OutcomeDenied || recs[0].Reason != "no-credentials" || recs[0].Source != "127.0.0.1" {
				t.Errorf("recorded: %+v", recs)
			}
		}
	}
	for _, path := range []string{"/", "/v1", "/v2/keys", "/v1/keys/", "/healthz", "/metrics", "/v1/keys/payments/../orders", "/v1//keys"} {
		nobody.get(path).refused(401, "unauthenticated")
	}
}

func TestPathsAndMethodsThatDoNotExist(t *testing.T) {
	t.Parallel()
	s := start(t)
	agent := s.as(t, "agent")
	check := func(res *response, reason, action string) {
		t.Helper()
		recs := s.recorded(t, res)
		if len(recs) != 1 || recs[0].Principal != "jwt:corp:agent" || recs[0].Outcome != audit.OutcomeError || recs[0].Reason != reason || recs[0].Action != action {
			t.Errorf("%s: recorded %+v, want %s and %s", res.what, recs, action, reason)
		}
	}
	for _, path := range []string{
		"/", "/v1", "/v1/", "/v1/keys/", "/v1/keys/payments/", "/v1/keys/payments/sign/", "/v1/keys/payments/signs", "/v1/keys/Payments", "/v1/keys/payments.v1",
		"/v1/keys/-payments", "/v1/keys/" + strings.Repeat("a", 49), "/v1/admin", "/v1/admin/keys/payments/versions/0/revoke", "/v1/admin/keys/payments/versions/01/revoke",
		"/v1/openapi.yml", "/v1/keys/payments/sign/batch/", "/healthz", "/v1/events/", "/v1/subscriptions/", "/v1/subscriptions/A", "/v1/admin/triggers/no_name",
		"/v1/keys/payments/versions/0/ack", "/v1/admin/agents/a-b", "/v1/admin/approvals/" + strings.Repeat("0", 65),
	} {
		res := agent.get(path)
		res.refused(404, "not_found")
		check(res, "not_found", "unmatched")
	}
	if got := s.observed.last(); got != (observation{"unmatched", "GET", 404}) {
		t.Errorf("observed %+v", got)
	}
	for path, allow := range map[string]string{
		"/v1/keys/payments/sign": "POST", "/v1/keys": "GET, HEAD", "/v1/keys/payments": "GET, HEAD", "/v1/admin/keys/payments": "PATCH, DELETE",
		"/v1/admin/rotations": "GET, HEAD", "/v1/openapi.yaml": "GET, HEAD", "/v1/jwks.json": "GET, HEAD", "/v1/events": "GET, HEAD",
		"/v1/subscriptions/payments": "PUT, DELETE", "/v1/keys/payments/versions/1/ack": "POST", "/v1/admin/triggers/alarm": "POST",
	} {
		for _, method := range []string{"TRACE", "OPTIONS", "BREW"} {
			res := agent.do(method, path, nil)
			res.refused(405, "method_not_allowed")
			if got := res.header.Get("Allow"); got != allow {
				t.Errorf("%s allows %q, want %q", path, got, allow)
			}
			check(res, "method_not_allowed", "unmatched")
		}
	}
	if got := s.observed.last(); got != (observation{"unmatched", "other", 405}) {
		t.Errorf("observed %+v", got)
	}
	for _, path := range []string{
		"/v1//keys", "//v1/keys", "/v1/keys/payments//sign", "/v1/./keys", "/v1/keys/../keys", "/v1/keys/payments/..", "/v1/keys/.", "/v1/keys/a%2Fb/sign", "/v1/keys/%70ayments",
		"/v1/keys/a%00b", "/v1/keys/a%0ab", "/v1/keys/%20", "/v1/keys/a%5Cb", "/v1/keys/%C3%A4", "/v1/keys/%25", "/v1/" + strings.Repeat("k", 300), "/%2e%2e/v1/keys",
	} {
		res := agent.get(path)
		res.refused(400, "malformed_request")
		check(res, "malformed_request", "unmatched")
	}
}

func TestQueriesAreStrict(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := s.as(t, "admin")
	for path, status := range map[string]int{
		"/v1/keys?limit=1&after=orders": 200, "/v1/keys?limit=1000": 200, "/v1/keys?": 200,
		"/v1/admin/rotations?key=payments&limit=2": 200, "/v1/admin/rotations?before=01ARZ3NDEKTSV4RRFFQ69G5FAV": 200,
		"/v1/keys?limit=0": 422, "/v1/keys?limit=-1": 422, "/v1/keys?limit=1001": 422, "/v1/keys?limit=x": 422, "/v1/keys?after=Not%20A%20Name": 422,
		"/v1/admin/rotations?key=No": 422, "/v1/admin/rotations?before=%2F..": 422,
		"/v1/keys?limit=": 422, "/v1/keys?after=": 422, "/v1/admin/rotations?before=": 422, "/v1/admin/rotations?key=": 422,
		"/v1/keys?page=2": 400, "/v1/keys?limit=1&limit=2": 400, "/v1/keys?a=%zz": 400, "/v1/keys?limit=1;after=a": 400, "/v1/keys/payments?x": 400,
		"/v1/events?access_token=s3cr3t": 400, "/v1/subscriptions?x=1": 400, "/v1/keys/payments/status.json?x=1": 400, "/v1/admin/keys/payments/usage?key=a": 400,
		"/v1/admin/agents?limit=1&after=jwt:corp:a%20b": 200, "/v1/admin/agents?after=": 422, "/v1/admin/agents?limit=0": 422, "/v1/admin/agents?before=x": 400,
		"/v1/admin/agents?after=" + strings.Repeat("a", 1025): 422, "/v1/admin/approvals?state=pending&limit=1": 200, "/v1/admin/approvals?state=": 422,
		"/v1/admin/approvals?state=Pending": 422, "/v1/admin/approvals?before=a/b": 422, "/v1/admin/approvals?state=done&state=failed": 400,
		"/v1/whoami?access_token=s3cr3t": 400, "/v1/openapi.yaml?x=1": 400, "/v1/jwks.json?x=1": 400,
	} {
		res := admin.get(path)
		if res.status != status {
			t.Errorf("%s: %d %s, want %d", path, res.status, res.body, status)
		}
		if strings.Contains(string(res.body), "s3cr3t") || strings.Contains(s.access.String(), "s3cr3t") || strings.Contains(s.log.String(), "s3cr3t") {
			t.Errorf("%s: the value is shown", path)
		}
	}
	if d := admin.get("/v1/keys?page=2").refused(400, "malformed_request"); !strings.Contains(d, `"page"`) {
		t.Errorf("the detail %q does not name the parameter", d)
	}
	if res := admin.do("POST", "/v1/keys/payments/sign?x=1", strings.NewReader(`{"payload":""}`)); res.status != 400 {
		t.Errorf("a query on POST: %d", res.status)
	}
}

func TestReadingTakesNoBody(t *testing.T) {
	t.Parallel()
	s := start(t)
	res := s.as(t, "agent").do("GET", "/v1/keys", strings.NewReader("{}"))
	res.refused(400, "malformed_request")
	if recs := s.recorded(t, res); len(recs) != 1 || recs[0].Action != "read" {
		t.Errorf("recorded %+v", recs)
	}
}

// Every call refuses members and parameters that it does not have, and a
// body where it takes none, before anything is done.
func TestEveryCallIsStrict(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := s.as(t, "admin")
	before := admin.get("/v1/keys/payments").want(200).body
	for _, r := range rest.Routes() {
		path, body := fill(r.Template), `{"bogus":1}`
		admin.do(r.Method, path+"?bogus=1", strings.NewReader(body)).refused(400, "malformed_request")
		if r.Public {
			continue
		}
		res := admin.do(r.Method, path, strings.NewReader(body))
		res.refused(400, "malformed_request")
		if recs := s.recorded(t, res); len(recs) != 1 || recs[0].Action != r.Action || recs[0].Reason != "malformed_request" {
			t.Errorf("%s: recorded %+v", res.what, recs)
		}
		if r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch {
			admin.do(r.Method, path, strings.NewReader(`[]`)).refused(400, "malformed_request")
			admin.do(r.Method, path, strings.NewReader(`{} {}`)).refused(400, "malformed_request")
			admin.set("Content-Type", "text/plain").do(r.Method, path, strings.NewReader(`{}`)).refused(415, "unsupported_media_type")
		}
	}
	if after := admin.get("/v1/keys/payments").want(200).body; !bytes.Equal(before, after) {
		t.Errorf("something was done: %s, then %s", before, after)
	}
}

func TestHead(t *testing.T) {
	t.Parallel()
	s := start(t)
	agent := s.as(t, "agent")
	for _, path := range []string{"/v1/keys", "/v1/keys/payments", "/v1/whoami", "/v1/jwks.json", "/v1/openapi.yaml"} {
		head, get := agent.do("HEAD", path, nil).want(200), agent.get(path).want(200)
		if len(head.body) != 0 || head.header.Get("Content-Length") != get.header.Get("Content-Length") || head.header.Get("ETag") != get.header.Get("ETag") {
			t.Errorf("HEAD %s: %v, GET: %v", path, head.header, get.header)
		}
	}
	agent.do("HEAD", "/v1/keys/none", nil).want(404)
	agent.do("HEAD", "/v1/random", nil).want(405)
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/v1/keys", "/v1//keys", "/..", "/a/./b", "/v1/keys/a%2fb", "", "*", "/\x00", "/v1/keys/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		err = rest.CheckPath(&http.Request{URL: u})
		plain := strings.HasPrefix(u.Path, "/") && len(u.Path) <= 256 && u.RawPath == "" && !strings.Contains(u.Path, "//") &&
			!strings.Contains(u.Path+"/", "/./") && !strings.Contains(u.Path+"/", "/../")
		for _, c := range []byte(u.Path) {
			plain = plain && c > ' ' && c <= '~' && c != '\\' && c != '%'
		}
		if err == nil && !plain {
			t.Errorf("%q passes", path)
		}
		if plain && err != nil {
			t.Errorf("%q is refused: %v", path, err)
		}
	})
}
