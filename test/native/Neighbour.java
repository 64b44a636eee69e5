import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * An application on Kafka's own Java client, as a neighbour of Sluice in tests: it writes what Sluice delivers, reads what
 * Sluice wrote, and shares a consumer group with it. Run from source: java -cp 'KAFKA_JARS/*' Neighbour.java MODE ARGS.
 *
 * <pre>
 * produce BOOTSTRAP TOPIC COUNT KEYS PREFIX [NAME=VALUE]...   prints a line of JSON per stored record
 * consume BOOTSTRAP TOPIC GROUP [NAME=VALUE]...               prints a line of JSON per record, until its standard input ends
 * </pre>
 *
 * NAME=VALUE are properties of the client.
 */
public final class Neighbour {
  private static final PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);

  private Neighbour() {}

  public static void main(String[] args) throws Exception {
    if (args.length >= 6 && args[0].equals("produce")) {
      produce(args);
    } else if (args.length >= 4 && args[0].equals("consume")) {
      consume(args);
    } else {
      System.err.println("usage: produce BOOTSTRAP TOPIC COUNT KEYS PREFIX | consume BOOTSTRAP TOPIC GROUP, then NAME=VALUE...");
      System.exit(2);
    }
  }

  private static Properties properties(String bootstrap, String[] args, int from) {
    Properties p = new Properties();
    p.put("bootstrap.servers", bootstrap);
    for (String a : Arrays.asList(args).subList(from, args.length)) {
      String[] kv = a.split("=", 2);
      p.put(kv[0], kv[1]);
    }
    return p;
  }

  private static void produce(String[] args) throws Exception {
    String topic = args[2];
    int count = Integer.parseInt(args[3]);
    int keys = Integer.parseInt(args[4]);
    String prefix = args[5];
    Properties p = properties(args[1], args, 6);
    p.putIfAbsent("acks", "all");
    p.putIfAbsent("linger.ms", "5");
    try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(p, new ByteArraySerializer(), new ByteArraySerializer())) {
      List<Future<RecordMetadata>> sent = new ArrayList<>();
      for (int i = 0; i < count; i++) {
        byte[] key = keys == 0 ? null : ("k" + i % keys).getBytes(StandardCharsets.UTF_8);
        ProducerRecord<byte[], byte[]> r = new ProducerRecord<>(topic, key, (prefix + i).getBytes(StandardCharsets.UTF_8));
        r.headers().add("native", Integer.toString(i).getBytes(StandardCharsets.UTF_8));
        sent.add(producer.send(r));
      }
      for (int i = 0; i < count; i++) {
        RecordMetadata m = sent.get(i).get();
        out.println("{\"value\":\"" + prefix + i + "\",\"partition\":" + m.partition() + ",\"offset\":" + m.offset() + "}");
      }
    }
    out.flush();
  }

  private static void consume(String[] args) throws Exception {
    Properties p = properties(args[1], args, 4);
    p.put("group.id", args[3]);
    p.putIfAbsent("auto.offset.reset", "earliest");
    p.put("enable.auto.commit", "false");
    boolean classic = !"consumer".equals(p.getProperty("group.protocol"));
    if (classic) {
      p.putIfAbsent("session.timeout.ms", "6000");
      p.putIfAbsent("heartbeat.interval.ms", "1000");
    }
    AtomicBoolean ending = new AtomicBoolean();
    try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
      Thread ender = new Thread(() -> awaitEnd(consumer, ending));
      ender.setDaemon(true);
      ender.start();
      Map<TopicPartition, OffsetAndMetadata> done = new HashMap<>();
      consumer.subscribe(List.of(args[2]), new Listener(consumer, done));
      while (!ending.get()) {
        try {
          for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(200))) {
            print(r);
            done.put(new TopicPartition(r.topic(), r.partition()), new OffsetAndMetadata(r.offset() + 1));
          }
          out.flush();
          commit(consumer, done);
        } catch (WakeupException e) {
          if (!ending.get()) {
            throw e;
          }
        }
      }
      commit(consumer, done);
    }
    out.flush();
  }

  private static void awaitEnd(KafkaConsumer<?, ?> consumer, AtomicBoolean ending) {
    try {
      while (System.in.read() >= 0) {}
    } catch (java.io.IOException e) {
      // A broken pipe is an end too.
    }
    ending.set(true);
    consumer.wakeup();
  }

  private static void commit(KafkaConsumer<?, ?> consumer, Map<TopicPartition, OffsetAndMetadata> done) {
    done.keySet().retainAll(consumer.assignment());
    if (!done.isEmpty()) {
      consumer.commitSync(done);
      done.clear();
    }
  }

  private record Listener(KafkaConsumer<?, ?> consumer, Map<TopicPartition, OffsetAndMetadata> done) implements ConsumerRebalanceListener {
    @Override
    public void onPartitionsRevoked(Collection<TopicPartition> ps) {
      commit(consumer, done);
      line("revoked", ps);
    }

    @Override
    public void onPartitionsAssigned(Collection<TopicPartition> ps) {
      line("assigned", ps);
    }

    private static void line(String what, Collection<TopicPartition> ps) {
      out.println("{\"" + what + "\":" + ps.size() + "}");
      out.flush();
    }
  }

  private static void print(ConsumerRecord<byte[], byte[]> r) {
    StringBuilder b = new StringBuilder("{\"partition\":").append(r.partition()).append(",\"offset\":").append(r.offset());
    b.append(",\"key\":").append(base64(r.key())).append(",\"value\":").append(base64(r.value())).append(",\"headers\":{");
    String comma = "";
    for (Header h : r.headers()) {
      b.append(comma).append('"').append(h.key()).append("\":").append(base64(h.value()));
      comma = ",";
    }
    out.println(b.append("}}"));
  }

  private static String base64(byte[] b) {
    return b == null ? "null" : '"' + Base64.getEncoder().encodeToString(b) + '"';
  }
}
