package imports

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestNoTestSleepsByTheClock allows time.Sleep in tests only where a synctest bubble makes it a step of a fake clock, and
// between two looks of a poll that has a deadline, which the line then says.
func TestNoTestSleepsByTheClock(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("git", "ls-files", "-co", "--exclude-standard", "*_test.go")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	bubbles := map[string]bool{} // folders whose tests run in bubbles
	sleeps := map[string][]string{}
	for file := range strings.FieldsSeq(string(out)) {
		b, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Dir(file)
		if strings.Contains(string(b), `"testing/synctest"`) {
			bubbles[dir] = true
		}
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, "time."+"Sleep(") && !strings.Contains(line, "poll") {
				sleeps[dir] = append(sleeps[dir], file+": "+strings.TrimSpace(line))
			}
		}
	}
	for dir, lines := range sleeps {
		if !bubbles[dir] {
			t.Errorf("sleeps by the clock: wait on a signal, or poll with a deadline:\n%s", strings.Join(lines, "\n"))
		}
	}
}
