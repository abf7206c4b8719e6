package store

import (
	"database/sql"
	"strings"
)

// table is one that Copy copies, with columns that SQLite and PostgreSQL both
// have.
type table struct {
	name, columns string
	order         string // of the rows, that leaves no choice
	flags         string // the columns that are true or false, which SQLite has as 1 or 0
	skips         string // whose names are those of the rows to skip, in the first column; "": of none
}

const sealedTable = "sealed"

// copied are all tables but those of running gateways (leases and nodes) and
// meta. A row comes behind what it refers to.
var copied = []table{
	{name: "keys", columns: keyColumns, order: "name", skips: "keys"},
	{name: "versions", columns: versionColumns, order: "key_name, number", flags: "never_extractable always_sensitive", skips: "keys"},
	{name: "rotations", columns: rotationColumns, order: "id", skips: "rotations"},
	{name: "approvals", columns: approvalColumns, order: "id", flags: "force", skips: "approvals"},
	{name: sealedTable, columns: "name, body, revision, mac", order: "name"},
	{name: "tombstones", columns: "name, last_version, revision", order: "name"},
	{name: "deletions", columns: "name, revision", order: "name"},
	{name: "attempts", columns: attemptColumns, order: "principal, key"},
	{name: "events", columns: noticeColumns, order: "id"},
	{name: "agents", columns: "principal, id, first_seen, last_seen", order: "principal"},
	{name: "subscriptions", columns: "key_name, principal, since", order: "key_name, principal"},
	{name: "acks", columns: ackColumns, order: "key_name, version, principal"},
	{name: "usage", columns: "key_name, version, principal, node, applied, processed, bytes, last_use", order: "key_name, version, principal, node"},
	{name: "hooks", columns: hookColumns, order: "name"},
	{name: "dead_events", columns: deadColumns, order: "hook, id"},
}

// names are those of the columns.
func (t table) names() []string {
	return strings.FieldsFunc(t.columns, func(r rune) bool { return strings.ContainsRune(", \n\t", r) })
}

func (t table) query() string {
	return "SELECT " + t.columns + " FROM " + t.name + " ORDER BY " + t.order
}

// read returns a row in one form, whichever database it is from: no empty
// bytes, which are as good as none, and flags that are bool.
func (t table) read(rows *sql.Rows) ([]any, error) {
	names := t.names()
	row, dest := make([]any, len(names)), make([]any, len(names))
	for i := range row {
		dest[i] = &row[i]
	}
	if err := rows.Scan(dest...); err != nil {
		return nil, err
	}
	for i, v := range row {
		switch v := v.(type) {
		case []byte:
			if len(v) == 0 {
				row[i] = nil
			}
		case int64:
			if (v == 0 || v == 1) && strings.Contains(" "+t.flags+" ", " "+names[i]+" ") {
				row[i] = v == 1
			}
		}
	}
	return row, nil
}
