// Debezium's own outbox event router and Kafka Connect's own converters: one case per line of standard input, the message
// that they make of it per line of standard output, as JSON with bytes in base64.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.debezium.data.Envelope;
import io.debezium.transforms.outbox.EventRouter;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.connect.converters.ByteArrayConverter;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.data.SchemaBuilder;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.header.Header;
import org.apache.kafka.connect.json.JsonConverter;
import org.apache.kafka.connect.source.SourceRecord;
import org.apache.kafka.connect.storage.Converter;
import org.apache.kafka.connect.storage.SimpleHeaderConverter;
import org.apache.kafka.connect.storage.StringConverter;

public class Router {
  static final ObjectMapper JSON = new ObjectMapper();

  public static void main(String[] arguments) throws Exception {
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      System.out.println(JSON.writeValueAsString(message(JSON.readTree(line))));
    }
  }

  static ObjectNode message(JsonNode event) throws Exception {
    boolean raw = event.get("format").asText().equals("Raw");
    Schema payload = raw ? Schema.OPTIONAL_BYTES_SCHEMA : Schema.OPTIONAL_STRING_SCHEMA;
    EventRouter<SourceRecord> router = new EventRouter<>();
    router.configure(settings(event));
    SourceRecord routed = router.apply(change(event, payload, raw));
    ObjectNode message = JSON.createObjectNode();
    String converter = event.get("converter").asText();
    message.put("key", converter(converter, false, true)
        .fromConnectData(routed.topic(), routed.keySchema(), routed.key()));
    message.put("value", converter(converter, raw, false)
        .fromConnectData(routed.topic(), routed.valueSchema(), routed.value()));
    ObjectNode headers = message.putObject("headers");
    SimpleHeaderConverter simple = new SimpleHeaderConverter();
    for (Header header : routed.headers()) {
      headers.put(header.key(),
          simple.fromConnectHeader(routed.topic(), header.key(), header.schema(), header.value()));
    }
    return message;
  }

  static Map<String, String> settings(JsonNode event) {
    Map<String, String> settings = new HashMap<>();
    boolean envelope = event.get("eventType").asText().equals("Envelope");
    settings.put("table.fields.additional.placement", envelope ? "type:envelope:eventType" : "type:header:eventType");
    settings.put("table.expand.json.payload", String.valueOf(event.get("format").asText().equals("Json")));
    return settings;
  }

  // An insert into an outbox table, as a Debezium connector reports it.
  static SourceRecord change(JsonNode event, Schema payload, boolean raw) throws Exception {
    Schema row = SchemaBuilder.struct().name("outbox.Value")
        .field("id", Schema.STRING_SCHEMA).field("aggregatetype", Schema.STRING_SCHEMA)
        .field("aggregateid", Schema.STRING_SCHEMA).field("type", Schema.STRING_SCHEMA)
        .field("payload", payload).build();
    Envelope envelope = Envelope.defineSchema().withName("outbox.Envelope").withRecord(row)
        .withSource(SchemaBuilder.struct().field("lsn", Schema.INT64_SCHEMA).build()).build();
    byte[] bytes = event.get("payload").binaryValue();
    Struct after = new Struct(row).put("id", event.get("id").asText()).put("aggregatetype", "order")
        .put("aggregateid", event.get("aggregateId").asText()).put("type", event.get("type").asText())
        .put("payload", raw ? bytes : new String(bytes, StandardCharsets.UTF_8));
    Struct source = new Struct(envelope.schema().field("source").schema()).put("lsn", 1L);
    return new SourceRecord(Map.of(), Map.of(), "db.outbox", null, Schema.STRING_SCHEMA, "row",
        envelope.schema(), envelope.create(after, source, Instant.ofEpochMilli(1)));
  }

  static Converter converter(String name, boolean raw, boolean key) {
    Converter converter = name.equals("Plain") ? (raw ? new ByteArrayConverter() : new StringConverter()) : new JsonConverter();
    Map<String, Object> settings = new HashMap<>();
    if (!name.equals("Plain")) settings.put("schemas.enable", name.equals("JsonWithSchemas"));
    converter.configure(settings, key);
    return converter;
  }
}
