package api_test

import (
	"encoding"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"keyhole/gateway/api"
	"keyhole/keys"
)

func loadSpec(t *testing.T) *openapi3.T {
	t.Helper()
	spec, err := openapi3.NewLoader().LoadFromData([]byte(api.OpenAPI()))
	if err != nil {
		t.Fatal(err)
	}
	if err := spec.Validate(t.Context(), openapi3.EnableExamplesValidation(), openapi3.EnableSchemaFormatValidation()); err != nil {
		t.Fatal(err)
	}
	return spec
}

// schemas ties every schema of an object to its struct.
var schemas = map[string]any{
	"SignRequest": api.SignRequest{}, "SignResponse": api.SignResponse{},
	"VerifyRequest": api.VerifyRequest{}, "VerifyResponse": api.VerifyResponse{},
	"EncryptRequest": api.EncryptRequest{}, "EncryptResponse": api.EncryptResponse{},
	"DecryptRequest": api.DecryptRequest{}, "DecryptResponse": api.DecryptResponse{},
	"RewrapRequest": api.RewrapRequest{}, "RewrapResponse": api.RewrapResponse{},
	"DataKeyRequest": api.DataKeyRequest{}, "DataKeyResponse": api.DataKeyResponse{},
	"RandomRequest": api.RandomRequest{}, "RandomResponse": api.RandomResponse{},
	"SignBatchRequest": api.BatchRequest[api.SignRequest]{}, "SignBatchResponse": api.BatchResponse[api.SignResponse]{}, "SignBatchItem": api.BatchItem[api.SignResponse]{},
	"VerifyBatchRequest": api.BatchRequest[api.VerifyRequest]{}, "VerifyBatchResponse": api.BatchResponse[api.VerifyResponse]{}, "VerifyBatchItem": api.BatchItem[api.VerifyResponse]{},
	"EncryptBatchRequest": api.BatchRequest[api.EncryptRequest]{}, "EncryptBatchResponse": api.BatchResponse[api.EncryptResponse]{}, "EncryptBatchItem": api.BatchItem[api.EncryptResponse]{},
	"DecryptBatchRequest": api.BatchRequest[api.DecryptRequest]{}, "DecryptBatchResponse": api.BatchResponse[api.DecryptResponse]{}, "DecryptBatchItem": api.BatchItem[api.DecryptResponse]{},
	"RewrapBatchRequest": api.BatchRequest[api.RewrapRequest]{}, "RewrapBatchResponse": api.BatchResponse[api.RewrapResponse]{}, "RewrapBatchItem": api.BatchItem[api.RewrapResponse]{},
	"ItemError": api.ItemError{}, "Problem": api.Problem{}, "WhoAmI": api.WhoAmI{},
	"Key": api.Key{}, "KeyList": api.KeyList{}, "Policy": api.Policy{}, "Version": api.Version{}, "HSM": api.HSM{}, "JWK": api.JWK{}, "JWKS": api.JWKS{},
	"CreateKeyRequest": api.CreateKeyRequest{}, "UpdateKeyRequest": api.UpdateKeyRequest{}, "RotateRequest": api.RotateRequest{},
	"VersionActRequest": api.VersionActRequest{}, "Rotation": api.Rotation{}, "RotationList": api.RotationList{},
	"Acks": api.Acks{}, "RotationActRequest": api.RotationActRequest{}, "RotationAcks": api.RotationAcks{}, "AgentAt": api.AgentAt{}, "NextStep": api.NextStep{},
	"Empty": struct{}{}, "KeyStatus": api.KeyStatus{}, "StatusSet": api.StatusSet{},
	"Event": api.Event{}, "Subscription": api.Subscription{}, "SubscriptionList": api.SubscriptionList{}, "Ack": api.Ack{},
	"DestroyRequest": api.DestroyRequest{}, "ActResult": api.ActResult{},
	"Usage": api.Usage{}, "KeyUsage": api.KeyUsage{}, "VersionUsage": api.VersionUsage{}, "AgentUsage": api.AgentUsage{}, "SafeToDestroy": api.SafeToDestroy{},
	"Agent": api.Agent{}, "AckedAt": api.AckedAt{}, "AgentList": api.AgentList{}, "BlockRequest": api.BlockRequest{},
	"Approval": api.Approval{}, "ApprovalList": api.ApprovalList{}, "DecisionRequest": api.DecisionRequest{},
	"TriggerRequest": api.TriggerRequest{}, "TriggerResult": api.TriggerResult{}, "TriggeredKey": api.TriggeredKey{},
	"ReconcileRequest": api.ReconcileRequest{}, "ReconcileReport": api.ReconcileReport{}, "Finding": api.Finding{},
	"Webhook": api.Webhook{}, "DeadEvent": api.DeadEvent{}, "WebhookList": api.WebhookList{},
	"Node": api.Node{}, "NodeList": api.NodeList{},
	"AuditRecord": api.AuditRecord{}, "AuditList": api.AuditList{},
}

// requiredAnyway are members that the structs mark as omitted when empty,
// and the contract promises or demands.
var requiredAnyway = map[string][]string{
	"Problem":        {"request_id"},
	"EncryptRequest": {"plaintext"},
}

func TestSchemasAreTheStructs(t *testing.T) {
	t.Parallel()
	spec := loadSpec(t)
	for name, ref := range spec.Components.Schemas {
		if ref.Value.Type.Is("object") && name != "Tags" {
			if _, ok := schemas[name]; !ok {
				t.Errorf("the schema %s has no struct in this test", name)
			}
		}
	}
	for name, v := range schemas {
		ref, ok := spec.Components.Schemas[name]
		if !ok {
			t.Errorf("there is no schema %s", name)
			continue
		}
		s := ref.Value
		if s.AdditionalProperties.Has == nil || *s.AdditionalProperties.Has {
			t.Errorf("%s is open to any member", name)
		}
		var members, required []string
		for _, field := range fieldsOf(reflect.TypeOf(v)) {
			member, opts, _ := strings.Cut(field.Tag.Get("json"), ",")
			members = append(members, member)
			if opts == "" || slices.Contains(requiredAnyway[name], member) {
				required = append(required, member)
			}
			p, ok := s.Properties[member]
			if !ok {
				t.Errorf("%s.%s is not in the contract", name, member)
				continue
			}
			checkType(t, name+"."+member, field.Type, p.Value)
			switch field.Type.Kind() {
			case reflect.Bool, reflect.Int, reflect.Uint32, reflect.Uint64:
				// The gateway's encoder keeps 0 and false for omitempty, the client's does not.
				if opts == "omitempty" {
					t.Errorf("%s.%s: use omitzero", name, member)
				}
			}
		}
		for member := range s.Properties {
			if !slices.Contains(members, member) {
				t.Errorf("%s.%s is in the contract only", name, member)
			}
		}
		slices.Sort(required)
		if got := slices.Sorted(slices.Values(s.Required)); !slices.Equal(got, required) {
			t.Errorf("%s: the contract requires %v, the struct %v", name, got, required)
		}
	}
}

// fieldsOf returns the fields of a struct, those of embedded ones in their
// place, as the encoders see them.
func fieldsOf(rt reflect.Type) []reflect.StructField {
	var all []reflect.StructField
	for i := range rt.NumField() {
		if f := rt.Field(i); f.Anonymous && f.Tag.Get("json") == "" {
			all = append(all, fieldsOf(f.Type)...)
		} else {
			all = append(all, f)
		}
	}
	return all
}

// checkType compares a field with the schema of its member, elements too.
func checkType(t *testing.T, where string, rt reflect.Type, s *openapi3.Schema) {
	t.Helper()
	for rt.Kind() == reflect.Pointer {
		rt = rt.Elem()
	}
	want, format := "", ""
	switch {
	case rt == reflect.TypeFor[api.Time]():
		want, format = "string", "date-time"
	case rt == reflect.TypeFor[[]byte]():
		want, format = "string", "byte"
	case rt.Implements(reflect.TypeFor[encoding.TextMarshaler]()) || rt.Kind() == reflect.String:
		want = "string"
	case rt.Kind() == reflect.Bool:
		want = "boolean"
	case rt.Kind() == reflect.Slice:
		want = "array"
		if s.Items != nil {
			checkType(t, where+"[]", rt.Elem(), s.Items.Value)
		}
	case rt.Kind() == reflect.Struct || rt.Kind() == reflect.Map:
		want = "object"
	case rt.Kind() == reflect.Int || rt.Kind() == reflect.Uint32 || rt.Kind() == reflect.Uint64:
		want = "integer"
	}
	if !s.Type.Is(want) || format != "" && s.Format != format {
		t.Errorf("%s is %s %s in the contract, want %s %s", where, s.Type.Slice(), s.Format, want, format)
	}
}

func enumOf(t *testing.T, s *openapi3.Schema) []string {
	t.Helper()
	var all []string
	for _, v := range s.Enum {
		all = append(all, v.(string))
	}
	return slices.Sorted(slices.Values(all))
}

func TestEnumsAreTheVocabulary(t *testing.T) {
	t.Parallel()
	spec := loadSpec(t)
	var codes, states, algs, events []string
	for code := range api.Codes() {
		codes = append(codes, code)
	}
	for _, s := range keys.States() {
		states = append(states, string(s))
	}
	for _, a := range keys.Algorithms() {
		algs = append(algs, string(a))
	}
	for _, n := range keys.NoticeTypes() {
		events = append(events, string(n))
	}
	approvals := []keys.ApprovalState{
		keys.ApprovalPending, keys.ApprovalApproved, keys.ApprovalDone, keys.ApprovalFailed, keys.ApprovalRejected, keys.ApprovalExpired,
	}
	phases := []keys.Phase{keys.PhaseReserved, keys.PhaseAnnounced, keys.PhaseScheduled, keys.PhaseActivated, keys.PhaseCompleted, keys.PhaseAborted}
	for name, want := range map[string][]string{
		"Code": codes, "State": states, "Algorithm": algs, "Event.type": append(events, api.EventReset), "Rotation.phase": texts(phases),
		"Approval.state": texts(approvals), "Approval.action": {"destroy", "delete-key"},
		"Acks.require": texts([]keys.AckRequirement{keys.AckAll, keys.AckQuorum, keys.AckNone}), "RotationAcks.require": texts([]keys.AckRequirement{keys.AckAll, keys.AckQuorum}),
		"Acks.on_timeout":         texts([]keys.OnTimeout{keys.TimeoutAbort, keys.TimeoutActivate}),
		"RotationAcks.on_timeout": texts([]keys.OnTimeout{keys.TimeoutAbort, keys.TimeoutActivate}),
		"Policy.after_overlap":    texts([]keys.AfterOverlap{keys.OverlapArchive, keys.OverlapDestroy}),
	} {
		slices.Sort(want)
		if got := enumOf(t, schemaOf(spec, name)); !slices.Equal(got, want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{"RotateRequest.reason", "TriggerResult.reason"} {
		for _, reason := range enumOf(t, schemaOf(spec, name)) {
			if _, err := keys.ParseReason(reason); err != nil {
				t.Errorf("%s %q: %v", name, reason, err)
			}
		}
	}
	if got := enumOf(t, spec.Components.Parameters["ApprovalState"].Value.Schema.Value); !slices.Equal(got, slices.Sorted(slices.Values(texts(approvals)))) {
		t.Errorf("the parameter state is %v", got)
	}
}

func texts[S ~string](all []S) []string {
	var out []string
	for _, s := range all {
		out = append(out, string(s))
	}
	return out
}

// schemaOf finds a schema, or with a dot in name its member.
func schemaOf(spec *openapi3.T, name string) *openapi3.Schema {
	schema, member, isMember := strings.Cut(name, ".")
	s := spec.Components.Schemas[schema].Value
	if isMember {
		return s.Properties[member].Value
	}
	return s
}

// Every code is documented with its status: in the table of the
// introduction, and in the shared response of that status.
func TestCodesAreDocumented(t *testing.T) {
	t.Parallel()
	spec := loadSpec(t)
	responses := map[string]string{
		"400": "Malformed", "401": "Unauthenticated", "403": "Forbidden", "404": "NotFound", "405": "MethodNotAllowed", "409": "Conflict",
		"413": "TooLarge", "415": "UnsupportedMedia", "422": "Unprocessable", "429": "RateLimited", "500": "Internal", "503": "Unavailable",
	}
	for code, status := range api.Codes() {
		text := strconv.Itoa(status)
		if !strings.Contains(spec.Info.Description, "| "+code+" | "+text+" |") {
			t.Errorf("the introduction does not have %s with %s", code, text)
		}
		r := spec.Components.Responses[responses[text]]
		if r == nil || !slices.Contains(strings.FieldsFunc(*r.Value.Description, func(c rune) bool { return c == ' ' || c == ',' }), code) {
			t.Errorf("the response %s does not name %s", text, code)
		}
	}
	for path, item := range spec.Paths.Map() {
		for method, op := range item.Operations() {
			for status, r := range op.Responses.Map() {
				if status >= "400" && r.Ref != "#/components/responses/"+responses[status] {
					t.Errorf("%s %s: %s is %q", method, path, status, r.Ref)
				}
			}
			if op.Responses.Value("401") != nil && (op.Responses.Value("403") == nil || op.Responses.Value("429") == nil || op.Responses.Value("503") == nil) {
				t.Errorf("%s %s: whoever is known may be blocked, and limited", method, path)
			}
			if op.RequestBody != nil && (op.Responses.Value("413") == nil || op.Responses.Value("415") == nil || op.Responses.Value("422") == nil) {
				t.Errorf("%s %s takes a body and does not say how it is refused", method, path)
			}
		}
	}
}
