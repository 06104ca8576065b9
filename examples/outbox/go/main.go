// An order and its event in one logged batch; what was not answered is written again as the same write.
//
//	SCYLLA=127.0.0.1:9042 go run . ../schema.cql
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/gocql/gocql"
)

const (
	attempts = 5
	timeout  = 2 * time.Second

	insertOrder = "INSERT INTO app.orders (id, customer, total_cents) VALUES (?, ?, ?)"
	insertEvent = "INSERT INTO app.outbox (aggregate_id, sequence, id, aggregate_type, event_type, payload, created_at) " +
		"VALUES (?, ?, ?, 'Order', 'OrderCreated', ?, ?)"
)

var (
	// errNotWritten: there is neither row nor event, and there never will be.
	errNotWritten = errors.New("not written")
	// errOutcomeUnknown: call again with the same write, now or later, until there is an answer.
	errOutcomeUnknown = errors.New("it is not known whether this was written")
)

// created is one write. All that identifies it is made once, before the first attempt.
type created struct {
	orderID    gocql.UUID
	customer   string
	totalCents int64
	sequence   int64
	eventID    gocql.UUID
	at         time.Time
}

// write returns nil once both rows are there.
func write(ctx context.Context, session *gocql.Session, c created) error {
	payload, err := json.Marshal(map[string]any{"customer": c.customer, "totalCents": c.totalCents})
	if err != nil {
		return fmt.Errorf("%w: %w", errNotWritten, err)
	}
	var unanswered error
	for attempt := range attempts {
		err := once(ctx, session, c, string(payload))
		if err == nil {
			return nil
		}
		switch {
		case !refused(err):
			unanswered = err
		case unanswered == nil:
			return fmt.Errorf("%w: %w", errNotWritten, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errOutcomeUnknown, ctx.Err())
		case <-time.After(100 * time.Millisecond << attempt):
		}
	}
	return fmt.Errorf("%w: %w", errOutcomeUnknown, unanswered)
}

func once(ctx context.Context, session *gocql.Session, c created, payload string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	batch := session.NewBatch(gocql.LoggedBatch).WithContext(ctx).WithTimestamp(c.at.UnixMicro())
	batch.SetConsistency(gocql.LocalQuorum)
	batch.Query(insertOrder, c.orderID, c.customer, c.totalCents)
	batch.Query(insertEvent, c.orderID, c.sequence, c.eventID, payload, c.at)
	return session.ExecuteBatch(batch)
}

// refused: the coordinator wrote nothing. After any other failure the batch may have been applied, or may yet be.
func refused(err error) bool {
	var answer gocql.RequestError
	if !errors.As(err, &answer) {
		return false
	}
	switch answer.Code() {
	case gocql.ErrCodeUnavailable, gocql.ErrCodeInvalid, gocql.ErrCodeSyntax, gocql.ErrCodeUnauthorized:
		return true
	}
	return false
}

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	address := os.Getenv("SCYLLA")
	if address == "" {
		address = "127.0.0.1:9042"
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("SCYLLA: %w", err)
	}
	cluster := gocql.NewCluster(host)
	if cluster.Port, err = strconv.Atoi(port); err != nil {
		return fmt.Errorf("SCYLLA: %w", err)
	}
	session, err := cluster.CreateSession()
	if err != nil {
		return err
	}
	defer session.Close()
	for _, schema := range os.Args[1:] {
		if err := load(session, schema); err != nil {
			return err
		}
	}
	c := created{
		orderID: gocql.MustRandomUUID(), customer: "Ada", totalCents: 300,
		sequence: 1, eventID: gocql.MustRandomUUID(), at: time.Now(),
	}
	if err := write(ctx, session, c); err != nil {
		return err
	}
	var id gocql.UUID
	if err := session.Query("SELECT id FROM app.outbox WHERE aggregate_id = ?", c.orderID).Scan(&id); err != nil {
		return err
	}
	if id != c.eventID {
		return fmt.Errorf("the outbox has event %v", id)
	}
	fmt.Printf("order %v event %v\n", c.orderID, id)
	return nil
}

func load(session *gocql.Session, schema string) error {
	text, err := os.ReadFile(schema)
	if err != nil {
		return err
	}
	var lines []string
	for _, line := range strings.Split(string(text), "\n") {
		if !strings.HasPrefix(line, "--") {
			lines = append(lines, line)
		}
	}
	for _, statement := range strings.Split(strings.Join(lines, "\n"), ";") {
		if strings.TrimSpace(statement) == "" {
			continue
		}
		if err := session.Query(statement).Exec(); err != nil {
			return err
		}
	}
	return nil
}
