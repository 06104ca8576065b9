// Package clients checks what gocql asks of a node.
package clients

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/gocql/gocql"
)

func connect(t *testing.T) *gocql.Session {
	t.Helper()
	port, err := strconv.Atoi(os.Getenv("NODE_PORT"))
	if err != nil {
		t.Fatalf("NODE_PORT: %v", err)
	}
	cluster := gocql.NewCluster(os.Getenv("NODE_HOST"))
	cluster.Port = port
	cluster.Consistency = gocql.Quorum
	cluster.Timeout = 20 * time.Second
	cluster.ConnectTimeout = 20 * time.Second
	if user := os.Getenv("NODE_USER"); user != "" {
		cluster.Authenticator = gocql.PasswordAuthenticator{Username: user, Password: os.Getenv("NODE_PASSWORD")}
	}
	session, err := cluster.CreateSession()
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(session.Close)
	return session
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func keyspace(t *testing.T, session *gocql.Session) string {
	t.Helper()
	name := fmt.Sprintf("go_%d", time.Now().UnixNano())
	must(t, session.Query("CREATE KEYSPACE "+name+
		" WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1}").Exec())
	t.Cleanup(func() { _ = session.Query("DROP KEYSPACE " + name).Exec() })
	return name
}

func TestReadAndWriteInPages(t *testing.T) {
	session := connect(t)
	ks := keyspace(t, session)
	must(t, session.Query("CREATE TABLE "+ks+".t (p int, c int, v text, PRIMARY KEY (p, c))").Exec())
	for c := range 250 {
		must(t, session.Query("INSERT INTO "+ks+".t (p, c, v) VALUES (?, ?, ?)", 1, c, strconv.Itoa(c)).Exec())
	}
	rows := session.Query("SELECT c, v FROM "+ks+".t WHERE p = ?", 1).PageSize(40).Iter()
	var c, n int
	var v string
	for rows.Scan(&c, &v) {
		if c != n || v != strconv.Itoa(n) {
			t.Fatalf("row %d is %d %q", n, c, v)
		}
		n++
	}
	must(t, rows.Close())
	if n != 250 {
		t.Fatalf("%d rows", n)
	}
}

func TestBatchAndConditions(t *testing.T) {
	session := connect(t)
	ks := keyspace(t, session)
	must(t, session.Query("CREATE TABLE "+ks+".t (k int PRIMARY KEY, v int)").Exec())
	batch := session.NewBatch(gocql.LoggedBatch)
	for k := range 10 {
		batch.Query("INSERT INTO "+ks+".t (k, v) VALUES (?, ?)", k, k)
	}
	must(t, session.ExecuteBatch(batch))
	row := map[string]interface{}{}
	applied, err := session.Query("INSERT INTO "+ks+".t (k, v) VALUES (1, 9) IF NOT EXISTS").MapScanCAS(row)
	must(t, err)
	if applied || row["v"] != 1 {
		t.Fatalf("applied %v, row %v", applied, row)
	}
	applied, err = session.Query("UPDATE "+ks+".t SET v = 9 WHERE k = 1 IF v = 1").MapScanCAS(map[string]interface{}{})
	must(t, err)
	if !applied {
		t.Fatal("not applied")
	}
}

func TestSchemaMetadata(t *testing.T) {
	session := connect(t)
	ks := keyspace(t, session)
	must(t, session.Query("CREATE TABLE "+ks+
		".t (p int, c timeuuid, v map<text, int>, PRIMARY KEY (p, c)) WITH cdc = {'enabled': true}").Exec())
	metadata, err := session.KeyspaceMetadata(ks)
	must(t, err)
	table, ok := metadata.Tables["t"]
	if !ok || len(table.PartitionKey) != 1 || table.PartitionKey[0].Name != "p" {
		t.Fatalf("table %+v", table)
	}
	if _, ok := metadata.Tables["t_scylla_cdc_log"]; !ok {
		t.Fatal("no log table")
	}
}

func TestErrorsHaveCodes(t *testing.T) {
	session := connect(t)
	for statement, code := range map[string]int{"SELEC 1": 0x2000, "SELECT * FROM nokeyspace.t": 0x2200} {
		err := session.Query(statement).Exec()
		failure, ok := err.(gocql.RequestError)
		if !ok || failure.Code() != code {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}
