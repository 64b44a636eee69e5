package kafka

import (
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/mqtest"
)

func TestMain(m *testing.M) { mqtest.Main(m) }

// required fails a test that would skip what SLUICE_TEST_REQUIRE lists.
func required(t *testing.T, what, variable string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("SLUICE_TEST_REQUIRE"), ","), what) {
		t.Fatalf("%s is required, but %s is not set", what, variable)
	}
	t.Skipf("set %s", variable)
}

func testLog(t testing.TB) *slog.Logger {
	if os.Getenv("SLUICE_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func openDriver(t testing.TB, cfg Config) *Driver {
	t.Helper()
	d, err := Open(cfg, testLog(t), prometheus.NewRegistry())
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return d.(*Driver)
}

// realKafka are the brokers of SLUICE_TEST_KAFKA.
func realKafka(t testing.TB) []string {
	t.Helper()
	addr := os.Getenv("SLUICE_TEST_KAFKA")
	if addr == "" {
		if tt, ok := t.(*testing.T); ok {
			required(tt, "kafka", "SLUICE_TEST_KAFKA")
		}
		t.Skip("set SLUICE_TEST_KAFKA")
	}
	return strings.Split(addr, ",")
}

// oldKafkas are SLUICE_TEST_KAFKA_OLD by version.
func oldKafkas() map[string]string {
	found := map[string]string{}
	for part := range strings.SplitSeq(os.Getenv("SLUICE_TEST_KAFKA_OLD"), ",") {
		if version, addr, ok := strings.Cut(part, "="); ok {
			found[version] = addr
		}
	}
	return found
}

var _ mq.Driver = (*Driver)(nil)
