// A CUDA driver and runtime that know an H100 and can do nothing with it: enough for cuDNN to
// choose and compile its kernels for one.

#define DOES_NOTHING(name) \
    int name(void) { return 0; }

DOES_NOTHING(cuCtxGetCurrent)
DOES_NOTHING(cuCtxGetLimit)
DOES_NOTHING(cuCtxPopCurrent)
DOES_NOTHING(cuCtxPushCurrent)
DOES_NOTHING(cuGetErrorName)
DOES_NOTHING(cuGetErrorString)
DOES_NOTHING(cuKernelSetAttribute)
DOES_NOTHING(cuLaunchCooperativeKernel)
DOES_NOTHING(cuLaunchKernel)
DOES_NOTHING(cuLaunchKernelEx)
DOES_NOTHING(cuLibraryLoadFromFile)
DOES_NOTHING(cuLibraryUnload)
DOES_NOTHING(cuLinkAddData)
DOES_NOTHING(cuLinkComplete)
DOES_NOTHING(cuLinkCreate)
DOES_NOTHING(cuLinkDestroy)
DOES_NOTHING(cuModuleUnload)
DOES_NOTHING(cuStreamGetCtx)
DOES_NOTHING(cuTensorMapEncodeIm2col)
DOES_NOTHING(cuTensorMapEncodeTiled)

static int give(int *out, int value) {
    *out = value;
    return 0;
}

static int give_handle(void **out) {
    *out = (void *)0x1000;
    return 0;
}

int cuDriverGetVersion(int *version) { return give(version, 12090); }
int cuDeviceGetCount(int *count) { return give(count, 1); }
int cuDeviceGet(int *device, int number) { return give(device, number); }
int cuKernelGetAttribute(int *value) { return give(value, 0); }
int cuKernelGetFunction(void **function) { return give_handle(function); }
int cuLibraryGetKernel(void **kernel) { return give_handle(kernel); }
int cuLibraryLoadData(void **library) { return give_handle(library); }
int cuModuleGetFunction(void **function) { return give_handle(function); }
int cuModuleLoadData(void **module) { return give_handle(module); }
int cuOccupancyMaxPotentialClusterSize(int *size) { return give(size, 8); }

const char *cudaGetErrorString(int error) { return "an error"; }
int cudaDriverGetVersion(int *version) { return give(version, 12090); }
int cudaRuntimeGetVersion(int *version) { return give(version, 12090); }
int cudaGetDevice(int *device) { return give(device, 0); }
int cudaGetDeviceCount(int *count) { return give(count, 1); }

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 16: return give(value, 132); // multiprocessors
    case 75: return give(value, 9);   // compute capability
    case 76: return give(value, 0);
    case 97: return give(value, 232448); // shared memory of a block
    default: return 1;
    }
}
