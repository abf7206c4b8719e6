// Package ocsf shapes audit records as events of the Open Cybersecurity
// Schema Framework 1.3: class API Activity (6003), for a denied or failed
// login Authentication (3002). The record itself stays in "unmapped", so that
// nothing is lost.
package ocsf

import (
	"encoding/json"

	"keyhole/audit"
)

// Version is of the schema.
const Version = "1.3.0"

type event struct {
	ClassUID    int             `json:"class_uid"`
	ClassName   string          `json:"class_name"`
	CategoryUID int             `json:"category_uid"`
	ActivityID  int             `json:"activity_id"`
	TypeUID     int             `json:"type_uid"`
	SeverityID  int             `json:"severity_id"`
	Time        int64           `json:"time"` // ms
	StartTime   int64           `json:"start_time,omitempty"`
	EndTime     int64           `json:"end_time,omitempty"`
	Duration    int64           `json:"duration,omitempty"` // ms
	StatusID    int             `json:"status_id"`
	Status      string          `json:"status"`
	StatusCode  string          `json:"status_code,omitempty"`
	Metadata    metadata        `json:"metadata"`
	Actor       *actor          `json:"actor,omitempty"`
	User        *user           `json:"user,omitempty"`
	API         *apiDetails     `json:"api,omitempty"`
	SrcEndpoint *endpoint       `json:"src_endpoint,omitempty"`
	Resources   []resource      `json:"resources,omitempty"`
	Unmapped    json.RawMessage `json:"unmapped"`
}

type metadata struct {
	Version  string  `json:"version"`
	UID      string  `json:"uid"`
	Sequence uint64  `json:"sequence"`
	LogName  string  `json:"log_name"`
	Product  product `json:"product"`
}

type product struct {
	Name       string `json:"name"`
	VendorName string `json:"vendor_name"`
}

type actor struct {
	User user `json:"user"`
}

type user struct {
	UID  string `json:"uid"`
	Name string `json:"name"`
}

type apiDetails struct {
	Operation string   `json:"operation"`
	Service   service  `json:"service"`
	Request   *request `json:"request,omitempty"`
}

type service struct {
	Name string `json:"name"`
}

type request struct {
	UID string `json:"uid"`
}

type endpoint struct {
	IP string `json:"ip"`
}

type resource struct {
	UID  string `json:"uid"`
	Name string `json:"name"`
	Type string `json:"type"`
}

// API Activity and Authentication, with the activities used of them.
const (
	apiActivity    = 6003
	authentication = 3002
	create         = 1
	read           = 2
	update         = 3
	remove         = 4
	logon          = 1
	other          = 99
)

var activities = map[string]int{
	"create-key": create, "rotate": create, "read": read, "verify": read, "sign": read, "encrypt": read, "decrypt": read, "jwks": read,
	"update-key": update, "suspend": update, "resume": update, "revoke": update, "restore": update,
	"destroy": remove, "delete-key": remove,
}

// Event returns the event of a record, one line of JSON. line is the record
// as it is in the log.
func Event(r audit.Record, line []byte) ([]byte, error) {
	e := event{
		ClassUID: apiActivity, ClassName: "API Activity", CategoryUID: 6, ActivityID: other, SeverityID: 1, Time: r.Time.UnixMilli(),
		Duration: r.Duration.Milliseconds(), StatusID: 1, Status: "Success", StatusCode: r.Reason, Unmapped: line,
		Metadata: metadata{
			Version: Version, Sequence: r.Seq, UID: r.Node + "/" + r.RequestID, LogName: "keyhole-audit",
			Product: product{Name: "Keyhole", VendorName: "Keyhole"},
		},
		API: &apiDetails{Operation: r.Action, Service: service{Name: "keyhole"}},
	}
	if r.RequestID != "" {
		e.API.Request = &request{UID: r.RequestID}
	}
	if id, ok := activities[r.Action]; ok {
		e.ActivityID = id
	}
	if r.Principal != "" {
		e.Actor = &actor{User: user{UID: r.Principal, Name: r.Principal}}
	}
	if r.Action == "authenticate" {
		e.ClassUID, e.ClassName, e.CategoryUID, e.ActivityID = authentication, "Authentication", 3, logon
		e.User = &user{UID: r.Principal, Name: r.Principal}
		e.API, e.Actor = nil, nil
	}
	e.TypeUID = e.ClassUID*100 + e.ActivityID
	if r.Source != "" {
		e.SrcEndpoint = &endpoint{IP: r.Source}
	}
	if r.Key != "" {
		res := resource{UID: r.Key, Name: r.Key, Type: "key"}
		if r.KeyID != "" {
			res.UID = r.KeyID
		}
		e.Resources = []resource{res}
	}
	if !r.StartedAt.IsZero() {
		e.StartTime = r.StartedAt.UnixMilli()
	}
	if !r.CompletedAt.IsZero() {
		e.EndTime = r.CompletedAt.UnixMilli()
	}
	switch r.Outcome {
	case audit.OutcomeDenied:
		e.StatusID, e.Status, e.SeverityID = 2, "Failure", 3
	case audit.OutcomeError:
		e.StatusID, e.Status, e.SeverityID = 2, "Failure", 2
	case audit.OutcomeIntent:
		e.StatusID, e.Status = other, "Intent"
	}
	return json.Marshal(e)
}
