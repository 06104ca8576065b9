// An order and its event in one logged batch; what was not answered is written again as the same write.
//
//   SCYLLA=127.0.0.1:9042 java -cp '<jars of org.apache.cassandra:java-driver-core>/*' Outbox.java ../schema.cql

import com.datastax.oss.driver.api.core.CqlSession;
import com.datastax.oss.driver.api.core.DefaultConsistencyLevel;
import com.datastax.oss.driver.api.core.cql.BatchStatement;
import com.datastax.oss.driver.api.core.cql.DefaultBatchType;
import com.datastax.oss.driver.api.core.cql.PreparedStatement;
import com.datastax.oss.driver.api.core.servererrors.InvalidQueryException;
import com.datastax.oss.driver.api.core.servererrors.SyntaxError;
import com.datastax.oss.driver.api.core.servererrors.UnauthorizedException;
import com.datastax.oss.driver.api.core.servererrors.UnavailableException;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.UUID;

final class Outbox {
  /** There is neither row nor event, and there never will be. */
  static final class NotWritten extends RuntimeException {
    NotWritten(Throwable cause) {
      super(cause);
    }
  }

  /** Call again with the same write, now or later, until there is an answer. */
  static final class OutcomeUnknown extends RuntimeException {
    OutcomeUnknown(Throwable cause) {
      super(cause);
    }
  }

  /** One write. All that identifies it is made once, before the first attempt. */
  record Created(UUID orderId, String customer, long totalCents, long sequence, UUID eventId, String payload, long microseconds) {}

  static void write(CqlSession session, PreparedStatement insertOrder, PreparedStatement insertEvent, Created created)
      throws InterruptedException {
    BatchStatement batch = BatchStatement.builder(DefaultBatchType.LOGGED)
        .addStatement(insertOrder.bind(created.orderId(), created.customer(), created.totalCents()))
        .addStatement(insertEvent.bind(created.orderId(), created.sequence(), created.eventId(), "Order", "OrderCreated",
            created.payload(), Instant.ofEpochMilli(created.microseconds() / 1000)))
        .setConsistencyLevel(DefaultConsistencyLevel.LOCAL_QUORUM)
        .setQueryTimestamp(created.microseconds())
        .setTimeout(Duration.ofSeconds(2))
        // The same keys, values and timestamp: executed twice it leaves what it leaves when executed once.
        .setIdempotence(true)
        .build();
    RuntimeException unanswered = null;
    for (int attempt = 0; attempt < 5; attempt++) {
      try {
        session.execute(batch);
        return;
      } catch (UnavailableException | InvalidQueryException | UnauthorizedException | SyntaxError refused) {
        if (unanswered == null) {
          throw new NotWritten(refused);
        }
      } catch (RuntimeException error) {
        unanswered = error;
      }
      Thread.sleep(100L << attempt);
    }
    throw new OutcomeUnknown(unanswered);
  }

  public static void main(String[] schemas) throws Exception {
    String address = System.getenv().getOrDefault("SCYLLA", "127.0.0.1:9042");
    int colon = address.lastIndexOf(':');
    var node = new InetSocketAddress(address.substring(0, colon), Integer.parseInt(address.substring(colon + 1)));
    String datacenter = System.getenv().getOrDefault("DATACENTER", "datacenter1");
    try (CqlSession session = CqlSession.builder().addContactPoint(node).withLocalDatacenter(datacenter).build()) {
      for (String schema : schemas) {
        String text = Files.readString(Path.of(schema)).replaceAll("(?m)^--.*$", "");
        for (String statement : text.split(";")) {
          if (!statement.isBlank()) {
            session.execute(statement);
          }
        }
      }
      PreparedStatement insertOrder = session.prepare("INSERT INTO app.orders (id, customer, total_cents) VALUES (?, ?, ?)");
      PreparedStatement insertEvent = session.prepare(
          "INSERT INTO app.outbox (aggregate_id, sequence, id, aggregate_type, event_type, payload, created_at) "
              + "VALUES (?, ?, ?, ?, ?, ?, ?)");
      Instant now = Instant.now();
      long microseconds = now.getEpochSecond() * 1_000_000 + now.getNano() / 1000;
      var created = new Created(
          UUID.randomUUID(), "Ada", 300, 1, UUID.randomUUID(), "{\"customer\": \"Ada\", \"totalCents\": 300}", microseconds);
      write(session, insertOrder, insertEvent, created);
      UUID found = session
          .execute(session.prepare("SELECT id FROM app.outbox WHERE aggregate_id = ?").bind(created.orderId()))
          .one()
          .getUuid("id");
      if (!created.eventId().equals(found)) {
        throw new IllegalStateException("the outbox has event " + found);
      }
      System.out.println("order " + created.orderId() + " event " + found);
    }
  }
}
