package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// CopyIn writes rows into a table, within whatever transaction of c is open,
// and returns how many there were. next returns nil behind the last.
func CopyIn(ctx context.Context, c *sql.Conn, table string, columns []string, next func() ([]any, error)) (n int64, err error) {
	err = c.Raw(func(dc any) error {
		inner, ok := dc.(*conn)
		if !ok {
			return fmt.Errorf("copying into %s: the connection is a %T", table, dc)
		}
		n, err = inner.Conn.Conn().CopyFrom(ctx, pgx.Identifier{table}, columns, pgx.CopyFromFunc(func() ([]any, error) {
			row, err := next()
			if err != nil || row == nil {
				return nil, err
			}
			return encoded(row)
		}))
		return err
	})
	return n, err
}

// encoded returns a row as PostgreSQL keeps it.
func encoded(row []any) ([]any, error) {
	args := make([]driver.NamedValue, len(row))
	for i, v := range row {
		args[i].Value = v
	}
	if err := encode(args); err != nil {
		return nil, err
	}
	out := make([]any, len(row))
	for i, a := range args {
		out[i] = a.Value
	}
	return out, nil
}
