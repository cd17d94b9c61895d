package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The folder of the project's own guests.
var guests = os.Getenv("SANDBOX_TEST_GUESTS")

// Longer than anything here takes.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	if guests == "" {
		fmt.Println("SANDBOX_TEST_GUESTS names no folder of guests")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T) *Runtime {
	t.Helper()
	opened, err := Open()
	must(t, err)
	t.Cleanup(func() { opened.Close() })
	return opened
}

func ownGuest(t *testing.T, name string, args ...string) *Spec {
	t.Helper()
	spec, err := NewSpec(Unikernel(filepath.Join(guests, name), args...), Field("guest.unikernel.family", "bare"),
		Memory(16<<20), InProcess())
	must(t, err)
	return spec
}

// Guests live in this process, or each in a worker.
func inBothHomes(t *testing.T, test func(t *testing.T, home SpecOption)) {
	t.Run("InProcess", func(t *testing.T) { test(t, InProcess()) })
	t.Run("Worker", func(t *testing.T) { test(t, Field("isolation", "worker")) })
}

func create(t *testing.T, from *Runtime, spec *Spec) *Sandbox {
	t.Helper()
	box, err := from.Create(deadline(t), spec)
	must(t, err)
	t.Cleanup(func() { box.Close() })
	return box
}

func started(t *testing.T, from *Runtime, spec *Spec) *Sandbox {
	t.Helper()
	box := create(t, from, spec)
	must(t, box.Start(deadline(t)))
	return box
}

func TestAWholeLife(t *testing.T) {
	inBothHomes(t, wholeLife)
}

func wholeLife(t *testing.T, home SpecOption) {
	ctx := deadline(t)
	spec := ownGuest(t, "hello", "exit=7")
	must(t, home(spec))
	box := create(t, open(t), spec)
	if state, err := box.State(); err != nil || state != Created {
		t.Fatal(state, err)
	}
	must(t, box.Start(ctx))
	exit, err := box.Wait(ctx)
	must(t, err)
	if exit != (Exit{Kind: ExitCode, Value: 7}) || exit.Success() || exit.String() != "exit code 7" {
		t.Fatal(exit)
	}
	output, err := io.ReadAll(box.Console(ctx))
	if err != nil || !strings.HasPrefix(string(output), "hello") {
		t.Fatal(string(output), err)
	}
	stats, err := box.Stats()
	must(t, err)
	if stats.Memory.GuestTouched == nil || *stats.Memory.GuestTouched == 0 || stats.Memory.Reported != nil {
		t.Fatal(stats)
	}
	if networks, err := box.Networks(); err != nil || len(networks) != 0 {
		t.Fatal(networks, err)
	}
	report, err := box.ExitReport()
	if err != nil || !bytes.Contains(report, []byte("exit code 7")) {
		t.Fatal(string(report), err)
	}
	must(t, box.Teardown(ctx))
	timeline, err := box.Timeline()
	must(t, err)
	// The last two are that everything is given back, and that the call returned, in either order.
	last := timeline[len(timeline)-1]
	tornDown := last.Phase == "torn_down" || timeline[len(timeline)-2].Phase == "torn_down"
	if timeline[0].Phase != "called" || !tornDown || last.Real <= 0 || last.CPU != -1 {
		t.Fatal(timeline)
	}
	must(t, box.Close())
	must(t, box.Close())
	if err := box.Start(ctx); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestErrorsHaveCodeFieldAndMessage(t *testing.T) {
	_, err := NewSpec(Linux("/boot/vmlinuz", ""), Field("memroy", 1))
	var failure *Error
	if !errors.As(err, &failure) || failure.Code != ErrInvalidSpec || failure.Field != "memroy" {
		t.Fatal(err)
	}
	if !errors.Is(err, ErrInvalidSpec) || errors.Is(err, ErrTimeout) || !strings.Contains(err.Error(), "memroy") {
		t.Fatal(err)
	}
	if _, err := ParseSpec(nil); !errors.Is(err, ErrInvalidSpec) {
		t.Fatal(err)
	}
	if _, err := NewSpec(Linux("/boot/vmlinuz", ""), ID("a\x00b")); !errors.Is(err, ErrInvalidSpec) {
		t.Fatal(err)
	}
	if _, err := open(t).Restore(deadline(t), "a\x00b"); !errors.Is(err, ErrInvalidArgument) {
		t.Fatal(err)
	}
	if _, err := Open(RuntimeField("no_such", 1)); !errors.Is(err, ErrInvalidSpec) {
		t.Fatal(err)
	}
	box := create(t, open(t), ownGuest(t, "hello"))
	if err := box.Pause(deadline(t)); !errors.Is(err, ErrWrongState) {
		t.Fatal(err)
	}
	if _, err := box.Exec(deadline(t), []string{"true"}, nil); !errors.Is(err, ErrUnsupported) {
		t.Fatal(err)
	}
}

func TestSpecsAreReadAndWritten(t *testing.T) {
	spec, err := ParseSpec([]byte(`{"guest": {"linux": {"kernel": "/boot/vmlinuz"}}}`))
	must(t, err)
	must(t, spec.Set("disks[0]", map[string]string{"id": "root", "path": "/disk"}))
	document, err := spec.JSON()
	must(t, err)
	if !bytes.Contains(document, []byte(`"path":"/disk"`)) || !bytes.Contains(document, []byte(`"vcpus":1`)) {
		t.Fatal(string(document))
	}
	must(t, spec.Close())
	if err := spec.Set("memory", 1); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestTheConsoleIsAReaderAndAWriter(t *testing.T) {
	ctx := deadline(t)
	spec := ownGuest(t, "endings", "end=echo")
	must(t, spec.Set("ready", "boot_port"))
	box := started(t, open(t), spec)
	must(t, box.WaitReady(ctx))
	console := box.Console(ctx)
	if _, err := io.WriteString(console, "good morning\nquit\n"); err != nil {
		t.Fatal(err)
	}
	output, err := io.ReadAll(console)
	if err != nil || !strings.Contains(string(output), "GOOD MORNING") {
		t.Fatal(string(output), err)
	}
}

func TestAContextEndsACall(t *testing.T) {
	from := open(t)
	spec := ownGuest(t, "endings", "end=halt")
	must(t, spec.Set("ready", map[string]interface{}{"console": map[string]string{"marker": "never said"}}))
	box := started(t, from, spec)
	events, err := NewEvents()
	must(t, err)
	defer events.Close()
	waits := map[string]func(context.Context) error{
		"wait":    func(ctx context.Context) error { _, err := box.Wait(ctx); return err },
		"ready":   box.WaitReady,
		"console": func(ctx context.Context) error { _, err := io.ReadAll(box.Console(ctx)); return err },
		"event":   func(ctx context.Context) error { _, err := events.Next(ctx); return err },
		"log":     func(ctx context.Context) error { _, err := NextLog(ctx); return err },
	}
	for name, wait := range waits {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		err := wait(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrCancelled) {
			t.Fatal(name, err)
		}
		cancel()
		// A context that has ended already.
		if err := wait(ctx); !errors.Is(err, ErrCancelled) {
			t.Fatal(name, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := from.Create(ctx, spec); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if state, err := box.State(); err != nil || state != Running {
		t.Fatal(state, err)
	}
}

func TestEventsTellWhatHappens(t *testing.T) {
	ctx := deadline(t)
	events, err := NewEvents()
	must(t, err)
	defer events.Close()
	box := create(t, open(t), ownGuest(t, "hello"))
	must(t, events.Watch(box, EventExit|EventConsole))
	must(t, box.Start(ctx))
	seen := EventKind(0)
	for seen != EventExit|EventConsole {
		event, err := events.Next(ctx)
		must(t, err)
		if event.Sandbox != box {
			t.Fatal(event)
		}
		seen |= event.Kind
	}
	must(t, events.Unwatch(box))
}

func ask(t *testing.T, box *Sandbox) (nonce string, line int) {
	t.Helper()
	ctx := deadline(t)
	console := box.Console(ctx)
	_, err := io.WriteString(console, "\n")
	must(t, err)
	// The last line is the answer; the ones before it are of earlier questions, this sandbox's or its original's.
	before := line
	reader := bufio.NewReader(console)
	answers := asked(box)
	for ; before < answers; before++ {
		text, err := reader.ReadString('\n')
		must(t, err)
		if _, err := fmt.Sscanf(text, "clone-check: nonce=%s line=%d", &nonce, &line); err != nil {
			t.Fatal(text, err)
		}
	}
	return nonce, line
}

var (
	questions     = map[*Sandbox]int{}
	questionsLock sync.Mutex
)

// asked counts the questions of each sandbox.
func asked(box *Sandbox) int {
	questionsLock.Lock()
	defer questionsLock.Unlock()
	questions[box]++
	return questions[box]
}

func TestSnapshotsRestoresAndForksGoOnWhereTheOriginalStood(t *testing.T) {
	inBothHomes(t, goOnWhereTheOriginalStood)
}

func goOnWhereTheOriginalStood(t *testing.T, home SpecOption) {
	ctx := deadline(t)
	from := open(t)
	spec := ownGuest(t, "clone-check")
	must(t, home(spec))
	must(t, spec.Set("ready", "boot_port"))
	original := started(t, from, spec)
	must(t, original.WaitReady(ctx))
	nonce, line := ask(t, original)

	folder := filepath.Join(t.TempDir(), "snapshot")
	manifest, err := original.Snapshot(ctx, folder, WithDigest())
	if err != nil || !bytes.Contains(manifest, []byte(`"backend":"kvm"`)) {
		t.Fatal(string(manifest), err)
	}
	if _, err := original.Snapshot(ctx, folder); !errors.Is(err, ErrAlreadyExists) {
		t.Fatal(err)
	}
	paused, err := from.Restore(ctx, folder)
	must(t, err)
	defer paused.Close()
	if state, err := paused.State(); err != nil || state != Paused {
		t.Fatal(state, err)
	}
	must(t, paused.Resume(ctx))
	running, err := from.Restore(ctx, folder, StartAtOnce(), MemoryEager(), VerifyFull())
	must(t, err)
	defer running.Close()
	clones, err := original.Fork(ctx, 3, StartAtOnce())
	must(t, err)
	for _, clone := range append([]*Sandbox{original, paused, running}, clones...) {
		itsNonce, itsLine := ask(t, clone)
		if itsNonce != nonce || itsLine != line+1 {
			t.Fatal(itsNonce, nonce, itsLine, line)
		}
	}
	if _, err := paused.Uniqueness(); err != nil {
		t.Fatal(err)
	}
	if _, err := original.Uniqueness(); !errors.Is(err, ErrUnsupported) {
		t.Fatal(err)
	}
	for _, clone := range clones {
		must(t, clone.Close())
	}
}

func TestAContainerByRunc(t *testing.T) {
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip("needs runc")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs busybox")
	}
	root := t.TempDir()
	must(t, os.Mkdir(filepath.Join(root, "bin"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "bin/busybox"), busybox, 0o755))
	spec, err := NewSpec(Container("runc", root, "/bin/busybox", "sh", "-c", "echo from inside; exec /bin/busybox sleep 600"))
	must(t, err)
	ctx := deadline(t)
	from := open(t)
	box := started(t, from, spec)
	line, err := bufio.NewReader(box.Console(ctx)).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "from inside" {
		t.Fatal(line, err)
	}
	must(t, box.Pause(ctx))
	must(t, box.Resume(ctx))
	if capabilities, err := box.Capabilities(); err != nil || capabilities&CanExec == 0 {
		t.Fatal(capabilities, err)
	}
	command, err := box.Exec(ctx, []string{"/bin/busybox", "sh", "-c", "echo $WORD; exit 5"}, []string{"WORD=exec"})
	must(t, err)
	defer command.Close()
	output, err := io.ReadAll(command)
	if err != nil || strings.TrimSpace(string(output)) != "exec" {
		t.Fatal(string(output), err)
	}
	if exit, err := command.Wait(ctx); err != nil || exit != (Exit{Kind: ExitCode, Value: 5}) {
		t.Fatal(exit, err)
	}
	if exit, err := box.Stop(ctx, 0); err != nil || exit.Success() {
		t.Fatal(exit, err)
	}
	must(t, box.Teardown(ctx))
}

// Go's runtime preempts goroutines by signals; here every thread of the process, the library's included, gets them
// without end, while goroutines that never yield have to be preempted and sandboxes live.
func TestSignalsOfGosRuntimeDoNoHarm(t *testing.T) {
	from := open(t)
	var over atomic.Bool
	var spinning, storm sync.WaitGroup
	for count := 0; count < 2*runtime.GOMAXPROCS(0); count++ {
		spinning.Add(1)
		go func() {
			defer spinning.Done()
			for number := uint64(1); !over.Load(); number++ {
				if number%(1<<20) == 0 {
					runtime.Gosched()
				}
			}
		}()
	}
	storm.Add(1)
	go func() {
		defer storm.Done()
		for !over.Load() {
			tasks, err := os.ReadDir("/proc/self/task")
			if err != nil {
				t.Error(err)
				return
			}
			for _, task := range tasks {
				var thread int
				fmt.Sscan(task.Name(), &thread)
				// A thread may have ended meanwhile.
				_ = syscall.Tgkill(os.Getpid(), thread, syscall.SIGURG)
			}
			time.Sleep(100 * time.Microsecond)
		}
	}()
	var lives sync.WaitGroup
	for count := 0; count < 8; count++ {
		lives.Add(1)
		go func() {
			defer lives.Done()
			for round := 0; round < 3; round++ {
				if err := lifeUnderFire(from, ownGuest(t, "endings", "end=spin")); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	lives.Wait()
	over.Store(true)
	storm.Wait()
	spinning.Wait()
}

func lifeUnderFire(from *Runtime, spec *Spec) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	box, err := from.Create(ctx, spec)
	if err != nil {
		return err
	}
	defer box.Close()
	for _, verb := range []func(context.Context) error{box.Start, box.Pause, box.Resume, box.Pause} {
		if err := verb(ctx); err != nil {
			return err
		}
	}
	exit, err := box.Stop(ctx, 0)
	if err != nil || exit.Kind != ExitKilled {
		return fmt.Errorf("ended by %v: %w", exit, err)
	}
	return box.Close()
}

// How many virtual processors of guests in this process there are.
func processors(t *testing.T) int {
	tasks, err := os.ReadDir("/proc/self/task")
	must(t, err)
	count := 0
	for _, task := range tasks {
		name, _ := os.ReadFile(filepath.Join("/proc/self/task", task.Name(), "comm"))
		if string(name) == "sandbox-vcpu\n" {
			count++
		}
	}
	return count
}

// A thread bears its name soon after it begins, and is listed for a moment after it has ended.
func awaitProcessors(t *testing.T, wanted int, meanwhile func()) {
	t.Helper()
	for end := time.Now().Add(patience); processors(t) != wanted; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(processors(t), "instead of", wanted)
		}
		meanwhile()
	}
}

func TestWhatIsForgottenIsClosedByTheFinalizer(t *testing.T) {
	from := open(t)
	spec := ownGuest(t, "endings", "end=spin")
	awaitProcessors(t, 0, func() {})
	func() {
		boxes := make([]*Sandbox, 4)
		for count := range boxes {
			box, err := from.Create(context.Background(), spec)
			must(t, err)
			must(t, box.Start(context.Background()))
			boxes[count] = box
		}
		awaitProcessors(t, len(boxes), func() {})
		runtime.KeepAlive(boxes)
	}()
	awaitProcessors(t, 0, runtime.GC)
}

func TestProbeAndFeatures(t *testing.T) {
	probes, err := open(t).Probe(deadline(t))
	must(t, err)
	if len(probes) == 0 || probes[0].Backend != "kvm" {
		t.Fatal(probes)
	}
	if !HasFeature("kvm") || HasFeature("time travel") || Version() == "" {
		t.Fatal("features")
	}
}
