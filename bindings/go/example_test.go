package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sandbox"
)

// A guest is described, made, run to its end, and taken apart.
func Example() {
	image := filepath.Join(os.Getenv("SANDBOX_TEST_GUESTS"), "hello")
	if err := run(image); err != nil {
		fmt.Println(err)
	}
	// Output:
	// hello from a bare guest
	// exit code 0
}

func run(image string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	runtime, err := sandbox.Open()
	if err != nil {
		return err
	}
	defer runtime.Close()
	family := sandbox.Field("guest.unikernel.family", "bare")
	spec, err := sandbox.NewSpec(sandbox.Unikernel(image), family, sandbox.Memory(16<<20), sandbox.InProcess())
	if err != nil {
		return err
	}
	box, err := runtime.Create(ctx, spec)
	if err != nil {
		return err
	}
	defer box.Close()
	if err := box.Start(ctx); err != nil {
		return err
	}
	exit, err := box.Wait(ctx)
	output, _ := io.ReadAll(box.Console(ctx))
	fmt.Println(strings.TrimSpace(string(output)))
	fmt.Println(exit)
	return err
}

// Errors are told apart by their codes, and name the field that they are about.
func ExampleError() {
	_, err := sandbox.NewSpec(sandbox.Linux("/boot/vmlinuz", "console=ttyS0"), sandbox.VCPUs(99))
	var failure *sandbox.Error
	fmt.Println(errors.Is(err, sandbox.ErrInvalidSpec), errors.As(err, &failure) && failure.Field == "vcpus")
	// Output: true true
}
